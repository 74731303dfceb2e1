"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // tables: a real button in each heading that sorts
  const value = (row, column, kind) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent;
    if (kind !== "number") return text.trim().toLowerCase();
    return text.trim() === "" ? NaN : Number(text);
  };
  const compare = (left, right) => (typeof left === "string" ? left.localeCompare(right, "en", { numeric: true }) : left - right);
  const sort = (table, heading, direction) => {
    const column = heading.cellIndex, kind = heading.dataset.kind, body = table.tBodies[0];
    const rows = [...body.rows].map((row, index) => ({ row, index, key: value(row, column, kind) }));
    const missing = (entry) => Number.isNaN(entry.key);
    rows.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : direction * compare(a.key, b.key)) || a.index - b.index);
    body.append(...rows.map((entry) => entry.row));
    all("th[aria-sort]", table.tHead).forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  };
  for (const table of all("table.sortable")) {
    for (const heading of all("th[data-key]", table.tHead)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
      button.addEventListener("click", () => sort(table, heading, heading.getAttribute("aria-sort") === "ascending" ? -1 : 1));
    }
  }

  // the ledger: text, chips and the toggle all have to agree
  const ledger = $("#ledger-table"), search = $("#ledger-filter"), only = $("#only-float");
  const lines = [...ledger.tBodies[0].rows].map((row) => ({ row, text: row.textContent.toLowerCase() }));
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const chosen = (chip) => new Set(all(`[data-chip="${chip}"]`).filter(pressed).map((button) => button.dataset.value));
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), kinds = chosen("kind"), codes = chosen("code");
    let shown = 0;
    for (const { row, text } of lines) {
      const fits = words.every((word) => text.includes(word)) && (!kinds.size || kinds.has(row.dataset.kind)) &&
        (!codes.size || codes.has(row.dataset.code)) && (!pressed(only) || "float" in row.dataset);
      row.hidden = !fits;
      shown += fits;
    }
    $("#ledger-count").textContent = shown === lines.length ? `${lines.length} layers` : `${shown} of ${lines.length} layers`;
    $("#ledger-empty").hidden = shown > 0;
  };
  search.addEventListener("input", filter);
  const buttons = [only, ...all("[data-chip]")];
  for (const button of buttons) {
    button.addEventListener("click", () => { button.setAttribute("aria-pressed", String(!pressed(button))); filter(); });
  }
  $("#ledger-reset").addEventListener("click", () => {
    search.value = "";
    buttons.forEach((button) => button.setAttribute("aria-pressed", "false"));
    filter();
    search.focus();
  });

  // codes: a row's fold-out gets a copy of the page when it is first opened; a link opens the page it leads to
  for (const fold of all("details.code")) {
    fold.addEventListener("toggle", () => {
      const page = document.getElementById(fold.dataset.code);
      if (page) $(".body", fold).append(...[...$(".body", page).cloneNode(true).childNodes]);
    }, { once: true });
  }
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) { target.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", reveal);
  reveal();

  // measurements: the panel shows the layer that is pointed at or chosen
  const data = $("#layer-data");
  if (data) {
    const layers = JSON.parse(data.textContent), table = $("#layers-table");
    const rows = new Map(all("tr[data-layer]", table).map((row) => [row.dataset.layer, row]));
    const columns = new Map(all(".column").map((column) => [column.dataset.layer, column]));
    const choose = (index) => {
      all(".chosen").forEach((other) => other.classList.remove("chosen"));
      const row = rows.get(index);
      if (!row) return;
      row.classList.add("chosen");
      columns.get(index)?.classList.add("chosen");
      for (const [name, text] of Object.entries(layers[Number(index)])) $(`#panel-${name}`).textContent = text;
      $("#panel-chart").replaceChildren($("svg.histogram", row).cloneNode(true));
    };
    for (const [index, row] of rows) {
      const cell = $("th", row), button = document.createElement("button");
      button.type = "button";
      button.className = "row";
      button.setAttribute("aria-controls", "panel");
      button.append(...cell.childNodes);
      cell.append(button);
      row.addEventListener("click", () => choose(index));
      row.addEventListener("mouseenter", () => choose(index));
      button.addEventListener("focus", () => choose(index));
    }
    for (const [index, column] of columns) {
      column.addEventListener("click", () => { choose(index); rows.get(index).scrollIntoView({ block: "nearest" }); });
      column.addEventListener("mouseenter", () => choose(index));
    }
    choose(data.dataset.worst);
  }

  // the diff: two stages are chosen, their part is shown
  const from = $("#diff-from"), to = $("#diff-to"), pairs = all("details.pair");
  const show = () => {
    if (from.selectedIndex > to.selectedIndex) [from.value, to.value] = [to.value, from.value];
    let found = false;
    for (const pair of pairs) {
      pair.hidden = !(pair.dataset.from === from.value && pair.dataset.to === to.value);
      pair.open = !pair.hidden;
      found ||= pair.open;
    }
    $("#diff-told").textContent = found ? "" : "one stage twice: nothing differs";
    fit();
  };

  // pictures: buttons zoom, dragging pans
  const zoom = (canvas, factor) => {
    const svg = $("svg", canvas), width = Number(canvas.dataset.width), height = Number(canvas.dataset.height);
    const x = (canvas.scrollLeft + canvas.clientWidth / 2) / canvas.scrollWidth, y = (canvas.scrollTop + canvas.clientHeight / 2) / canvas.scrollHeight;
    svg.setAttribute("width", width * factor);
    svg.setAttribute("height", height * factor);
    canvas.dataset.factor = factor;
    canvas.scrollLeft = x * canvas.scrollWidth - canvas.clientWidth / 2;
    canvas.scrollTop = canvas.dataset.touched ? y * canvas.scrollHeight - canvas.clientHeight / 2 : 0;
    const told = $(".zoom-level", canvas.parentElement);
    if (told) told.textContent = `${Math.round(100 * factor)} %`;
  };
  const fitting = {
    width: (canvas) => Math.min(1.25, (canvas.clientWidth - 2) / canvas.dataset.width),
    whole: (canvas) => Math.min((canvas.clientWidth - 2) / canvas.dataset.width, (innerHeight * 0.8 - 2) / canvas.dataset.height),
    real: () => 4 / 3,
    in: (canvas) => Number(canvas.dataset.factor) * 1.3,
    out: (canvas) => Number(canvas.dataset.factor) / 1.3,
  };
  const canvases = all(".canvas").filter((canvas) => Number(canvas.dataset.width) > 0);
  const fit = () => {
    for (const canvas of canvases) if (!canvas.dataset.touched && canvas.clientWidth) zoom(canvas, Math.max(0.35, fitting.width(canvas)));
  };
  for (const canvas of canvases) {
    for (const button of all("[data-zoom]", canvas.parentElement)) {
      button.addEventListener("click", () => {
        const factor = fitting[button.dataset.zoom](canvas);
        canvas.dataset.touched = "yes";
        zoom(canvas, Math.max(0.02, Math.min(8, factor)));
      });
    }
    let grip = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button || event.pointerType === "touch") return;
      grip = { x: event.clientX + canvas.scrollLeft, y: event.clientY + canvas.scrollTop };
      canvas.classList.add("held");
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (grip) canvas.scrollTo(grip.x - event.clientX, grip.y - event.clientY);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { grip = null; canvas.classList.remove("held"); });
    }
  }
  if (from && to) {
    for (const select of [from, to]) select.addEventListener("change", show);
    show();
  }
  fit();
  addEventListener("resize", fit);
})();
