"""The faults: one small change each, of the kind that a tired person makes, and the laws that should notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """`before` stands exactly once in `file` (below the root) and is replaced by `after`."""

    name: str
    file: str
    before: str
    after: str
    laws: tuple[str, ...] = ("tests/laws",)  # in this order, until one fails


NUMBERS = ("tests/laws/test_quantizer.py", "tests/laws")
FILES = ("tests/faults/test_artifact_rows.py", "tests/artifact", "tests/laws")

MUTANTS = (
    Mutant(
        "zero point off by one",
        "fxquant/qdq.py",
        "return torch.clamp(torch.round(x * (1.0 / scale)) + zero_point, quant_min, quant_max).to(dtype)",
        "return torch.clamp(torch.round(x * (1.0 / scale)) + zero_point + 1, quant_min, quant_max).to(dtype)",
        NUMBERS,
    ),
    Mutant(
        "channel axis swapped",
        "fxquant/qdq.py",
        "    shape[axis] = -1",
        "    shape[dims - 1 - axis] = -1",
        NUMBERS,
    ),
    Mutant(
        "codes truncated in place of rounded",
        "fxquant/qdq.py",
        "codes = (x * (1.0 / scale.to(torch.float32)).view(shape)).round_().add_(zero_point.view(shape))",
        "codes = (x * (1.0 / scale.to(torch.float32)).view(shape)).trunc_().add_(zero_point.view(shape))",
        NUMBERS,
    ),
    Mutant(
        "an alias that is read later is dropped",
        "passes/functionalize.py",
        "        others = self._aliases.read_after(own, position)\n",
        "        others = self._aliases.read_after(own, position)[:-1]\n",
    ),
    Mutant(
        "an edge past a dropped identity is lost",
        "passes/drop_identity.py",
        "    given = node.args[0] if node.args else node.kwargs.get(\"input\")\n    return given if isinstance(given, fx.Node) else None",
        "    given = node.args[0] if node.args else node.kwargs.get(\"input\")\n"
        "    return (given.all_input_nodes or [given])[0] if isinstance(given, fx.Node) else None",
    ),
    Mutant(
        "the same scale for every site of a module",
        "passes/unshare.py",
        "    several = (found for found in sites.values() if len(found) > 1)\n",
        "    several = (found for found in sites.values() if len(found) > 99)\n",
    ),
    Mutant(
        "the scale of another site",
        "passes/convert.py",
        "    qparams = _kept_from(program, source) or observation.qparams()\n",
        "    seen = [observer_of(program.graph_module, n) for n in program.graph.nodes]\n"
        "    qparams = _kept_from(program, source) or [one for one in seen if one is not None][-1].qparams()\n",
        ("tests/laws/test_drawn_passes.py", "tests/laws"),
    ),
    Mutant(
        "the bias is dropped",
        "passes/_functional.py",
        "    return graph.call_function(function, (x, weight, bias, *options.values()))",
        "    return graph.call_function(function, (x, weight, None, *options.values()))",
    ),
    Mutant(
        "a batch norm folded without its epsilon",
        "passes/fold_batchnorm.py",
        "    scale = gamma / torch.sqrt(var + norm.eps)",
        "    scale = gamma / torch.sqrt(var)",
    ),
    Mutant(
        "a relu fused into a layer that others read",
        "passes/fuse.py",
        "    return len(before.users) == 1 and survey.calls[name] == 1 and not survey.is_read_directly(name)",
        "    return survey.calls[name] == 1 and not survey.is_read_directly(name)",
        ("tests/passes/test_fuse.py", "tests/laws"),
    ),
    Mutant(
        "the kernel without the relu",
        "passes/_native_layers.py",
        "    chosen = op if relu is None else op_relu\n    packed",
        "    chosen = op\n    packed",
        ("tests/passes/test_lower_native.py", "tests/laws"),
    ),
    Mutant(
        "gates of a cell in another order",
        "fxquant/recurrent.py",
        "    i, f, g, o = (inputs + hidden).chunk(4, -1)",
        "    f, i, g, o = (inputs + hidden).chunk(4, -1)",
        ("tests/passes/test_recurrent.py", "tests/laws"),
    ),
    Mutant(
        "parity is never checked",
        "passes/_parity.py",
        "MAX_STEPS = 1  # codes; ties round either way",
        "MAX_STEPS = 300",
        ("tests/passes/test_lower_native.py", "tests/laws"),
    ),
    Mutant(
        "the caller's model is quantized itself",
        "fxquant/fork.py",
        "        copied = copy.deepcopy(model, memo)\n",
        "        copied = model\n",
        ("tests/laws/test_world.py", "tests/laws"),
    ),
    Mutant(
        "the random state is left changed",
        "fxquant/sandbox.py",
        "        torch.set_rng_state(random_state)\n",
        "",
        ("tests/laws/test_world.py", "tests/laws"),
    ),
    Mutant(
        "the checksum is skipped",
        "fxquant/artifact/seal.py",
        "    if _digest(data) != digest_of(data):",
        "    if False:",
        FILES,
    ),
    Mutant(
        "any op may be named",
        "fxquant/artifact/specs.py",
        "        if spec.target not in known[spec.kind]:",
        "        if spec.kind == \"method\" and False:",
        FILES,
    ),
    Mutant(
        "floats of a file lose digits",
        "fxquant/artifact/literals.py",
        '            return f"={value.hex()}"',
        '            return f"={float(f\'{value:.6g}\').hex()}"',
        FILES,
    ),
    Mutant(
        "outputs in the wrong order",
        "fxquant/signature.py",
        "            item.value if isinstance(item, Constant) else results[item] for item in self.outputs",
        "            item.value if isinstance(item, Constant) else results[-1 - item] for item in self.outputs",
        ("tests/laws/test_drawn_numbers.py", "tests/laws"),
    ),
    Mutant(
        "a half written file stays behind",
        "fxquant/files.py",
        "        scratch.unlink(missing_ok=True)\n",
        "        pass\n",
        FILES,
    ),
    Mutant(
        "a diff compares edges with themselves",
        "fxquant/graphs/diffing.py",
        "self._sources(group.after, self.right, 1)\n",
        "self._sources(group.before, self.left, 0)\n",
        ("tests/laws/test_diffs.py",),
    ),
    Mutant(
        "a snapshot may read what comes later",
        "fxquant/graphs/codec.py",
        "            if source not in seen:\n",
        "            if False:\n",
        ("tests/graphs/test_codec.py", "tests/laws"),
    ),
)  # fmt: skip
