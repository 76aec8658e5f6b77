"""What a method is: which weights move, or what is put into the model. One short file a method, one line in the table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from d90.errors import InputError
from d90.methods.fields import check_value, fields_of
from d90.subspace.options import STEP_RULE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from d90.subspace.fingerprint import Base

__all__ = ["Applied", "Context", "Inserting", "Method", "task_head"]


@dataclass(frozen=True)
class Context:
    """What a method may ask for beside the model.

    Attributes:
        seed: of weights that a method draws (stream "init").
        losses: gives the training loss of up to n batches one by one, for masks that look at gradients.
        fine_tune: trains what has `requires_grad` in place, for masks that look at changes.
        stored: the tensors of a file that is being loaded; a mask that was found with data is taken from there.
        step_rule: of a subspace over the method.
        note: receives what was decided for the user.
    """

    seed: int = 0
    losses: Callable[[int], Iterator[Tensor]] | None = None
    fine_tune: Callable[[], None] | None = None
    stored: Mapping[str, Tensor] | None = None
    step_rule: int = STEP_RULE
    note: Callable[[str], None] = lambda text: None


@dataclass
class Applied:
    """A method that was put on a model: what it changed there, and both ways out.

    Attributes:
        model: the model, changed in place.
        flags: every parameter of the model as it was found, with its `requires_grad`.
        head: names of the task's own head, which moves with every method.
        claims: the weights that a method changes, for the check that two methods share none.
        undo: takes out what was put in, called last first.
        fold: what turns the trained additions into plain weights; called last first, instead of `undo`.
        stored: what a file holds when it is not the trained parameters themselves: plain weights by their names.
        base: fingerprint of the model as it was found, where `stored` needs it.
    """

    model: nn.Module
    flags: dict[str, tuple[nn.Parameter, bool]] = field(default_factory=dict)
    head: set[str] = field(default_factory=set)
    claims: dict[str, set[int]] = field(default_factory=dict)
    undo: list[Callable[[], None]] = field(default_factory=list)
    fold: list[Callable[[], None]] = field(default_factory=list)
    stored: Callable[[], dict[str, Tensor]] | None = None
    base: Base | None = None

    @classmethod
    def of(cls, model: nn.Module, names: Iterable[str] | None = None) -> Applied:
        """A model as it is found; with `names`, nothing but these parameters moves from now on."""
        flags = {name: (parameter, parameter.requires_grad) for name, parameter in model.named_parameters()}
        if names is not None:
            for name, (parameter, _) in flags.items():
                parameter.requires_grad_(name in names)
        return cls(model, flags, task_head(model))

    def remove(self) -> nn.Module:
        """Take out what was put in and set the flags as they were found."""
        while self.undo:
            self.undo.pop()()
        for parameter, flag in self.flags.values():
            parameter.requires_grad_(flag)
        return self.model

    def merge(self) -> nn.Module:
        """Leave a plain model of the base's shape that holds the tuned weights."""
        while self.fold:
            self.fold.pop()()
        self.undo.clear()
        return self.remove()

    def claim(self, method: Method, parameters: Iterable[nn.Parameter]) -> None:
        """Note that `method` changes these weights.

        Raises:
            InputError: another method changes one of them already.
        """
        mine = {id(parameter) for parameter in parameters}
        for other, theirs in self.claims.items():
            if other != str(method) and mine & theirs:
                name = next(n for n, (p, _) in self.flags.items() if id(p) in mine & theirs)
                raise InputError(
                    f"'{other}' and '{method}' both change '{name}'; expected methods that share no weights, as "
                    "lora+preembed. Give one of the two."
                )
        self.claims.setdefault(str(method), set()).update(mine)


@dataclass(frozen=True)
class Method(ABC):
    """Chooses the weights of a model that move, or puts weights of its own in.

    A method is a frozen dataclass: its fields are what the grammar accepts behind its name, checked when it is made.

    Class attributes:
        name: as in the grammar.
        summary: a line for `d90 methods`.
        merges: whether the trained model can be left as an ordinary one of the base's shape.
        starts_at_base: whether the untrained model's outputs are the base's.
        leaves_weights: whether a file holds tuned weights of the base, and not what was trained.
        adds: what the method adds to the model at inference, in words; nothing where it merges.
        looks_at_data: whether training examples decide what moves, besides how it is trained: no certificate describes that choice.
        over_packed: whether the base's weights may be packed into four bits: the method reads and writes none of them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    merges: ClassVar[bool] = True
    starts_at_base: ClassVar[bool] = True
    leaves_weights: ClassVar[bool] = False
    adds: ClassVar[str] = "nothing"
    looks_at_data: ClassVar[bool] = False
    over_packed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field_ in fields_of(type(self)).values():
            check_value(field_, getattr(self, field_.name), self.name)

    def _settle(self, **values: Any) -> None:
        """Write fields that a constructor left open."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @abstractmethod
    def move(self, applied: Applied, context: Context) -> set[str]:
        """Put in what the method inserts, and name the parameters that move (tied ones under their first name).

        Every change to the model leaves its way back in `applied` before the next is made.

        Raises:
            InputError: nothing matches: what was looked for, and what the model has.
        """

    def apply(self, model: nn.Module, context: Context | None = None) -> Applied:
        """Put the method on a model: `requires_grad` is then true for what moves, and for nothing else.

        Raises:
            InputError: the method does not fit the model; the model is then as it was.
        """
        applied = Applied.of(model)
        frozen = {id(parameter) for parameter, flag in applied.flags.values() if not flag}
        try:
            moved = self.move(applied, context or Context())
            named = dict(model.named_parameters())
            chosen = {name for name in moved if id(named[name]) not in frozen}
            if not chosen:
                raise InputError(
                    f"method '{self}' moves nothing in this model: all it would move is frozen (requires_grad=False). "
                    "Unfreeze those weights, or choose another method."
                )
            for name, parameter in named.items():
                parameter.requires_grad_(name in chosen)
        except BaseException:
            applied.remove()
            raise
        return applied

    def no_merge(self) -> InputError:
        """Why a merge is refused."""
        return InputError(
            f"'{self}' cannot be merged: it adds {self.adds}, which no weight of the base model can stand for. "
            "Keep the tune beside the model, or choose a method that merges ('d90 methods')."
        )

    def __add__(self, other: Method) -> Method:
        """Both together: they train together and are saved together."""
        from d90.methods.combined import Combined

        return Combined(self, other)

    def __str__(self) -> str:
        given = {field_.name: getattr(self, field_.name) for field_ in fields(self)}
        shown = ",".join(f"{key}={value}" for key, value in given.items() if value is not None and value is not False)
        return f"{self.name}:{shown}" if shown else self.name


@dataclass(frozen=True)
class Inserting(Method):
    """A method that puts parameters of its own into the model: they and the task's head move.

    They are held in fp32 in a half-precision model too, where an optimizer's steps would be lost in their rounding.
    """

    over_packed: ClassVar[bool] = True

    @abstractmethod
    def insert(self, applied: Applied, context: Context) -> None:
        """Put them in."""

    def move(self, applied: Applied, context: Context) -> set[str]:
        import torch

        before = {id(parameter) for parameter in applied.model.parameters()}
        heads = {id(applied.flags[name][0]) for name in applied.head}
        self.insert(applied, context)
        for parameter in applied.model.parameters():
            if id(parameter) not in before and parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = parameter.data.float()
        named = applied.model.named_parameters()
        return {name for name, p in named if id(p) in heads or id(p) not in before}


def task_head(model: nn.Module) -> set[str]:
    """Names of the parameters of a head made for the task, and of the layers that no checkpoint gave.

    A language model's output matrix is none, nor is the last part of a transformer that has no head.
    """
    from d90.subspace import layout

    names = [name for name, _ in model.named_parameters()]
    heads = [] if getattr(model, "_d90_language", False) else layout.head_modules(model)
    if not heads and not hasattr(model, "base_model_prefix"):
        heads = [name for name, child in model.named_children() if any(True for _ in child.parameters())][-1:]
    found = {name for name in names if name.split(".")[0] in heads}
    return {name for name in found if name.split(".")[0] not in layout.LANGUAGE_HEADS} | set(
        layout.fresh_tensors(model, names)
    )
