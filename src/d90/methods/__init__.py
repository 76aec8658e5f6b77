"""Which weights move, or what is put in: a short file each, and the grammar that names them.

A method's text is read without torch; what puts a method on a model is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from d90.methods.adapter import Adapter
from d90.methods.base import Applied, Context, Method
from d90.methods.bitfit import BitFit
from d90.methods.combined import Combined
from d90.methods.full import Full
from d90.methods.hiwi import HiWi
from d90.methods.lora import LoRA
from d90.methods.peft import Peft
from d90.methods.preembed import PreEmbed
from d90.methods.prelayer import PreLayer
from d90.methods.sparse import PaFi, SparseMask
from d90.methods.spec import METHODS, Space, Spec, parse, register_method
from d90.methods.top import TopLayers
from d90.registry import late_names

if TYPE_CHECKING:
    from d90.methods.applied import AppliedMethod, Counts, apply, counts, load
    from d90.methods.direct import Direct, Trainable, restore, snapshot

Sparse = SparseMask  # its name before 0.1

__all__ = [
    "METHODS",
    "Adapter",
    "Applied",
    "AppliedMethod",
    "BitFit",
    "Combined",
    "Context",
    "Counts",
    "Direct",
    "Full",
    "HiWi",
    "LoRA",
    "Method",
    "PaFi",
    "Peft",
    "PreEmbed",
    "PreLayer",
    "Space",
    "Sparse",
    "SparseMask",
    "Spec",
    "TopLayers",
    "Trainable",
    "apply",
    "counts",
    "load",
    "parse",
    "register_method",
    "restore",
    "snapshot",
]

_MODULES = {
    **dict.fromkeys(("AppliedMethod", "Counts", "apply", "counts", "load"), "applied"),
    **dict.fromkeys(("Direct", "Trainable", "restore", "snapshot"), "direct"),
}


__getattr__ = late_names("d90.methods", _MODULES)
