"""compile(): check the model, capture it, run the pipeline, return a CompiledModel."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import nn

from fxquant import preflight, targets
from fxquant.arguments import example_call
from fxquant.batches import Batches, Reader, reader_for
from fxquant.calibration import has_observers, of_batch
from fxquant.capture import capture
from fxquant.custom import CustomModule, leaf_types
from fxquant.errors import (
    CalibrationShapeError,
    ContractError,
    DeviceError,
    ExampleInputError,
)
from fxquant.fork import fork
from fxquant.ledger import Ledger
from fxquant.lowering import Lowering, check_aim, resolved
from fxquant.model import CompiledModel, Finish, already_finished
from fxquant.options import check_options, check_schedule
from fxquant.pipeline import Observer, Pass, PassRecord, Pipeline, after
from fxquant.policy import read_policy
from fxquant.program import Program, Stage
from fxquant.racing import SECONDS, race_for, unraced
from fxquant.registry import make
from fxquant.request import CaptureRequest
from fxquant.rounds import Rounds, Start
from fxquant.sandbox import one_compilation
from fxquant.source import Source
from fxquant.tails import LOWERING_PASSES, at_conversion, tail_names
from fxquant.torch_ao import engine
from fxquant.trainable import TrainableModel

if TYPE_CHECKING:
    from fxquant.qat import QATModel
    from fxquant.training.schedule import QATSchedule


def default_pipeline(*, target: str = targets.AUTO, **options: Any) -> Pipeline:
    """The compiler, top to bottom, for a target. Options of a pass go by its name: `calibrate={'max_batches': 8}`."""
    return Pipeline(
        (
            _step("select-qconfigs", options),  # decide, on the graph as the user wrote it
            _step("functionalize", options),  # no in-place writes, so that no effect can be lost
            _step("unshare", options),  # one module per call site, so that each has its own scale
            _step("normalize-calls", options),  # one spelling per op
            _step("drop-identity", options),
            _step("skip-batchnorm", options),  # say which batch norms stay, and why
            _step("fold-batchnorm", options),  # and fold the others
            _step("custom-modules", options),
            _step("fuse", options),
            _step("insert-observers", options),
            _step("calibrate", options),
            _step("convert", options),  # the canonical graph
            *(_step(name, options) for name in tail_names(target)),  # the same on an engine
        )
    )


def _step(name: str, options: Mapping[str, Any]) -> Pass:
    return make(name, **options.get(name.replace("-", "_"), {}))


@overload
def compile(model: nn.Module, qconfig_mapping: Any, *, mode: Literal["qat"], **options: Any) -> QATModel: ...
@overload
def compile(
    model: nn.Module, qconfig_mapping: Any, *, mode: Literal["ptq"] = "ptq", **options: Any
) -> CompiledModel: ...
def compile(  # type: ignore[misc]  # the overloads tell the modes apart, and leave the options to this signature
    model: nn.Module,
    qconfig_mapping: Any,
    *,
    calibration_data: Any = None,
    example_inputs: Any = None,
    target: str = "auto",
    passes: Pipeline | Sequence[Pass | str] | None = None,
    strict: bool = False,
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Sequence[str | type[nn.Module]] = (),
    skip_batchnorm: Sequence[str] = (),
    custom_modules: Sequence[CustomModule] = (),
    forward_fn: Callable[[nn.Module, Any], object] | None = None,
    max_batches: int = 128,
    on_nonfinite: str = "error",
    guard_inputs: bool = False,
    observers: Sequence[Observer] = (),
    race_seconds: float = SECONDS,
    race_targets: Sequence[str] | None = None,
    place: bool | None = None,
    mode: str = "ptq",
    schedule: QATSchedule | None = None,
) -> CompiledModel | QATModel:
    """Quantize a trained float model. The model itself is never changed.

    Args:
        model: an `nn.Module` in eval mode, or what `fxquant.compress` made of one. A copy of it is cast to float32 and
            moved to the CPU where it has to be, and the ledger says so.
        qconfig_mapping: a torch.ao `QConfigMapping`, a preset ('int8', 'int8-dynamic', 'int8-weight-only',
            'int4-weight-only', 'float16', 'bfloat16', 'float8', 'hybrid'), a fallback chain (a tuple of presets, tried
            in order at each site; 'float' at its end where a layer may stay float), a Recipe, or the path of a TOML
            recipe.
        calibration_data: for static quantization. A tensor is one argument, a tuple the arguments, a dict the keywords,
            `(args, kwargs)` both; a list, DataLoader or generator holds batches of these. Without it a static mapping
            gives a model that calibrates when it is called, until `convert()`.
        example_inputs: one call's arguments, where the first batch does not show them.
        target: 'x86', 'onednn', 'fbgemm', 'qnnpack', 'inductor', 'onnxruntime', 'openvino' (`fxquant doctor` says which
            are here), or 'auto' for the fastest: those that are here run the example inputs in turns. A target that is
            not here, or does not run the model right, gives way to the engine of torch's own that suits this CPU.
        passes: another pipeline than `default_pipeline()`: a Pipeline, or passes and names of passes.
        strict: what would be a ledger row saying that a layer stays float is an error; so is a target that gives way.
        concrete_args: values of forward's parameters to fix, by name.
        leaf_modules: names or classes of modules that are not traced into. Modules of your own stay float then; a layer
            of torch's is one op either way, and the mapping says what becomes of it.
        skip_batchnorm: names of batch norms that stay float.
        custom_modules: handlers for modules of your own (see `fxquant.CustomModule`).
        forward_fn: `forward_fn(model, batch)` calls the model on a batch of a shape of its own.
        max_batches: how many batches are used.
        on_nonfinite: 'error', 'skip' or 'replace' for batches with NaN or infinities.
        guard_inputs: the compiled model checks each call's inputs, and NaN or infinity is FXQ302; integer kernels would
            make plausible numbers of it. Costs one pass over the inputs.
        observers: called with each pass's record.
        race_seconds: of target='auto', how long the targets are timed, all together; 0: no race, torch's own engine.
        race_targets: of target='auto', which targets take part beside torch's own engine; None: 'openvino' and
            'onnxruntime', those that are here. The environment variable FXQUANT_AUTO_TARGETS ('native', or a list with
            commas) says which ones may.
        place: leave in float what is faster there, by times measured here (pass place-precision); `strict` never does.
            None: where target='auto' has chosen an engine outside torch.
        mode: 'qat' for a model that trains with rounding until its `convert()`; data gives ranges to start with.
        schedule: of QAT, when ranges and batch norms freeze (`fxquant.QATSchedule`).

    Returns:
        A CompiledModel with the model's own signature and output structure. What it computes in floating point is
        float32 on the CPU: inputs of the dtype that the model had are cast when they come in, outputs are float32.
        With mode='qat', a QATModel that gives one when it has been trained.

    Raises:
        FxQuantError: every failure; its code has a page (`fxquant explain CODE`).
    """
    check_options(
        passes=passes,
        strict=strict,
        concrete_args=concrete_args,
        leaf_modules=leaf_modules,
        skip_batchnorm=skip_batchnorm,
        custom_modules=custom_modules,
        forward_fn=forward_fn,
        observers=observers,
        race_seconds=race_seconds,
        race_targets=race_targets,
        place=place,
        mode=mode,
    )
    check_schedule(schedule, mode)
    ledger = Ledger.of(model.ledger.state()) if isinstance(model, TrainableModel) else Ledger()
    named = target if passes is None else check_aim(passes, target)
    race = race_for(race_targets, race_seconds) if named == targets.AUTO and passes is None else None
    if told := unraced(target, race_targets, race_seconds, is_own=passes is not None):
        ledger.notice("FXQ513", told)
    resolution = resolved(named, ledger, is_strict=strict)
    with ExitStack() as stack:
        stack.enter_context(_compiler(resolution.engine))
        float_model = preflight.check(model, ledger, strict=strict)
        before = preflight.fingerprint(float_model)
        policy = read_policy(qconfig_mapping, target=resolution.engine)
        data = None if calibration_data is None else stack.enter_context(closing(Batches(calibration_data)))
        reader = reader_for(float_model, data, example_inputs, ledger)
        example = _example(example_inputs, data, reader, is_readable=forward_fn is None)
        kinds = tuple(
            kind for kind in leaf_types(custom_modules) if any(isinstance(m, kind) for m in float_model.modules())
        )
        is_batch = example_inputs is None and example != (None, None)
        program = replace(
            _captured(  # nothing else holds the copy, so that float weights go as they are quantized
                CaptureRequest(fork(float_model), *example, concrete_args, (*leaf_modules, *kinds)),
                ledger,
                is_batch=is_batch,
            ),
            target=resolution.target,
            policy=policy.text or policy.title,
        )
        ledger.notice("FXQ507", resolution.reason)
        if example_inputs is not None:
            program = replace(program, call_leaves=program.example_leaves)
        lowering = {"strict": strict}
        places = place is True and not strict
        pipeline = _pipeline(
            passes,
            target=resolution.target,
            select_qconfigs={"policy": policy, "strict": strict},
            skip_batchnorm={"names": tuple(skip_batchnorm)},
            custom_modules={"handlers": tuple(custom_modules), "strict": strict},
            insert_observers={"strict": strict},
            calibrate={
                "data": data,
                "reader": reader,
                "forward_fn": forward_fn,
                "max_batches": max_batches,
                "on_nonfinite": on_nonfinite,
            },
            place_precision={"enabled": places, "strict": strict},
            **{name.replace("-", "_"): lowering for name in LOWERING_PASSES},
        )
        how = Lowering(Pipeline(()), strict, observers, race, False if strict else place)
        source = Source(weakref.ref(float_model), before, concrete_args, (*leaf_modules, *kinds))
        before_it = float_model.history if isinstance(float_model, TrainableModel) else ()
        compiled: CompiledModel | QATModel
        if mode == "qat":
            from fxquant.qat import begin
            from fxquant.training.dropout import revive

            again = CaptureRequest(fork(float_model), *example, concrete_args, (*leaf_modules, *kinds))
            revive(program, again, ledger)
            options: dict[str, Any] = {"schedule": schedule, "guard_inputs": guard_inputs, "observers": observers}
            compiled = begin(pipeline, program, ledger, before_it, _finisher(how), source, **options)
        else:
            compiled = _run(pipeline, program, ledger, how, source, before_it, guard_inputs=guard_inputs)
        if preflight.fingerprint(float_model) != before:
            raise ContractError(
                "FXQ405",
                "the model was changed while it was being compiled",
                hint="callbacks, forward_fn and threads must leave it alone until compile() returns",
            )
    return compiled


def _captured(request: CaptureRequest, ledger: Ledger, *, is_batch: bool) -> Program:
    """Capture; arguments that do not fit are the first batch's fault where they came from it."""
    try:
        return capture(request, ledger)
    except DeviceError as error:
        raise of_batch(error, 0) if is_batch else error from error.__cause__
    except ExampleInputError as error:
        if not is_batch:
            raise
        told = f"calibration batch 0 does not fit the model: {error.message}"
        raise CalibrationShapeError("FXQ304", told, hint=error.hint) from error


@contextmanager
def _compiler(engine_name: str) -> Iterator[None]:
    """One compilation at a time, with its engine."""
    with one_compilation(), engine(engine_name):
        yield


def _example(
    example_inputs: Any, data: Batches | None, reader: Reader, *, is_readable: bool
) -> tuple[tuple[Any, ...] | None, Mapping[str, Any] | None]:
    """(args, kwargs) of one call, where one is known: what the user gave, else the first batch."""
    if example_inputs is not None:
        return example_call(example_inputs)
    if data is None or data.first is None or not is_readable:
        return None, None
    call = reader.call(data.first, 0)
    return call.args, call.kwargs


def _pipeline(passes: Pipeline | Sequence[Pass | str] | None, *, target: str, **options: Any) -> Pipeline:
    """The pipeline to run, its passes that came by name filled with what this compilation knows."""
    if passes is None:
        return default_pipeline(target=target, **options)
    if isinstance(passes, Pipeline):
        return Pipeline(tuple(_filled(step, options) for step in passes))
    return Pipeline(tuple(_step(step, options) if isinstance(step, str) else _filled(step, options) for step in passes))


def _filled(step: Pass, options: Mapping[str, Any]) -> Pass:
    """A pass whose fields that are still None get this compilation's values (its policy, its data)."""
    known = options.get(step.name.replace("-", "_"), {})
    missing = {key: value for key, value in known.items() if getattr(step, key, 0) is None}
    return replace(step, **missing) if missing else step  # type: ignore[type-var]


def _finisher(how: Lowering) -> Callable[[Pipeline], Finish]:
    """What runs the rest of a pipeline on its engine, later."""

    def finisher(rest: Pipeline) -> Finish:
        converting, tail = at_conversion(rest)
        lowering = replace(how, tail=tail)

        def finish(program: Program, ledger: Ledger, samples: int) -> tuple[Program, tuple[PassRecord, ...]]:
            with _compiler(program.engine):
                program, records = converting.run(program, ledger, observers=how.observers)
                with after(records):
                    program, more = lowering.run(program, ledger)
                return program, (*records, *more)

        return finish

    return finisher


def _run(
    pipeline: Pipeline,
    program: Program,
    ledger: Ledger,
    how: Lowering,
    source: Source,
    history: tuple[PassRecord, ...],
    *,
    guard_inputs: bool,
) -> CompiledModel:
    """Run it all, or up to calibration when there are observers and no data: the model's calls are its data then."""
    pipeline.check(program.stage)
    deciding, head, rest = _split(pipeline)
    program, records = deciding.run(program, ledger, observers=how.observers)
    converting, tail = at_conversion(rest)
    rounds = Rounds(head, converting, replace(how, tail=tail), how.observers)
    start = Start.of(program, ledger)
    with after(records):
        program, more, start = rounds.prepare(program, ledger, start)
    records = (*history, *records, *more)

    def finish(program: Program, ledger: Ledger, samples: int) -> tuple[Program, tuple[PassRecord, ...]]:
        with _compiler(program.engine):
            return rounds.finish(program, ledger, start, samples)

    waits = bool(rest.passes) and getattr(rest.passes[0], "data", None) is None and has_observers(program)
    if not waits:
        with after(records):
            program, more = finish(program, ledger, 0)
        records = (*records, *more)
        finish = already_finished
    return CompiledModel(program, ledger, records, finish, source, guard_inputs=guard_inputs)


def _split(pipeline: Pipeline) -> tuple[Pipeline, Pipeline, Pipeline]:
    """Up to the plan, up to calibration, and the rest: a fallback chain may run the second and third once more."""
    names = [step.name for step in pipeline]
    planned = next((index + 1 for index, step in enumerate(pipeline) if step.yields is Stage.PLANNED), 0)
    calibrated = names.index("calibrate") if "calibrate" in names else len(names)
    steps = pipeline.passes
    return Pipeline(steps[:planned]), Pipeline(steps[planned:calibrated]), Pipeline(steps[calibrated:])
