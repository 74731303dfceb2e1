"""Is a call being recorded or transformed by torch? What an engine outside torch computes would be a constant there.

    torch.jit.trace(compiled, x)      a graph that returns, for each input, the result for x
    torch.func.functionalize(...)     the engine reads memory that holds no values

It is asked before each call, so it costs 0.2 µs. torch.compile leaves engines out of its graphs by itself.
"""

from __future__ import annotations

from torch._C import _get_tracing_state, _len_torch_dispatch_stack, _len_torch_function_stack
from torch._C._functorch import peek_interpreter_stack
from torch.compiler import is_dynamo_compiling


def recorder() -> str:
    """What records or transforms this call, in the user's words; '' for nothing."""
    if is_dynamo_compiling():
        return ""
    if _get_tracing_state() is not None:
        return "torch.jit.trace (or torch.onnx.export, by way of it)"
    if peek_interpreter_stack() is not None:
        return "a transform of torch.func (vmap, grad, functionalize, ...)"
    if (_len_torch_dispatch_stack() or _len_torch_function_stack()) and _is_proxied():
        return "torch.export or make_fx"
    return ""


def _is_proxied() -> bool:
    """Is a mode on that writes each op down, below torch's dispatcher or above it?"""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None
