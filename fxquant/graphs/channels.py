"""Channels that have to go together. An atom is one channel of one layer; the graph ties atoms; no torch here.

    y = conv1(x) + conv2(x)      channel i of conv1 and channel i of conv2 go together, or stay together

Every dimension of a tensor has labels: for each index the atom that it is, or FIXED. Units are the connected
components of the tied atoms; a group is all units that lie in the same dimensions of the same parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
from numpy.typing import NDArray

FIXED = -1  # an index that is no layer's channel: a batch, a pixel, a channel of the model's input
Labels = NDArray[np.int64]
Alive = NDArray[np.bool_]  # for each atom: does it stay? One entry more, at the end, stands for FIXED: it does


@dataclass(frozen=True, slots=True, order=True)
class Axis:
    """One dimension of one parameter or buffer, by its dotted name."""

    tensor: str
    dim: int


@dataclass(frozen=True, slots=True)
class Group:
    """Units that are pruned alike: each takes the same number of indices from each of the same axes."""

    layers: tuple[str, ...]  # the modules whose output channels these are, in graph order
    members: tuple[str, ...]  # all modules and tensors that shrink with them
    units: tuple[tuple[int, ...], ...]  # atoms, unit by unit
    places: Mapping[Axis, NDArray[np.int64]]  # axis → (units, indices a unit)
    made: Mapping[Axis, int]  # the axes that are output channels → indices a unit
    frozen: str = ""  # why all of it stays; '' where it may be pruned

    def __len__(self) -> int:
        return len(self.units)

    @property
    def channels(self) -> int:
        """Output channels that one unit takes from the first of its layers, times the units."""
        return len(self) * next(iter(self.made.values()))


@dataclass
class Channels:
    """What a graph says of its channels, gathered node by node."""

    dependencies: nx.Graph = field(default_factory=nx.Graph)  # atoms, tied where they must go together
    axes: dict[Axis, Labels] = field(default_factory=dict)
    makers: dict[Axis, str] = field(default_factory=dict)  # axes that are a layer's output channels → the layer
    parts: list[Labels] = field(default_factory=list)  # slices of which something has to stay
    _reasons: dict[int, str] = field(default_factory=dict)  # atom → why it stays

    def fresh(self, count: int) -> Labels:
        """New atoms, tied to nothing yet."""
        start = self.dependencies.number_of_nodes()
        self.dependencies.add_nodes_from(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def tie(self, left: Labels, right: Labels, why: str) -> Labels:
        """These go together, index by index. What is tied to a FIXED index stays, because of `why`.

        Returns the labels of what joins the two: FIXED where either is.
        """
        self.freeze(left[right < 0], why)
        self.freeze(right[left < 0], why)
        both = (left >= 0) & (right >= 0) & (left != right)
        self.dependencies.add_edges_from(zip(left[both].tolist(), right[both].tolist(), strict=True))
        return np.where(right < 0, FIXED, left)

    def freeze(self, labels: Labels, why: str) -> None:
        """These stay. The first reason is kept."""
        for atom in labels[labels >= 0].tolist():
            self._reasons.setdefault(atom, why)

    def bind(self, axis: Axis, labels: Labels, why: str) -> Labels:
        """Let the axis of a parameter have these labels; where it has some already, the two are tied."""
        known = self.axes.setdefault(axis, labels)
        if known is not labels:
            self.tie(known, labels, why)
        return known

    def made_by(self, axis: Axis, size: int, layer: str) -> Labels:
        """The labels of a layer's output channels: its own atoms. A tensor that is read twice has them once."""
        self.makers.setdefault(axis, layer)
        return self.held(axis, size)

    def held(self, axis: Axis, size: int) -> Labels:
        """The labels of an axis of a tensor that the graph reads."""
        if axis not in self.axes:
            self.axes[axis] = self.fresh(size)
        return self.axes[axis]

    def all_alive(self) -> Alive:
        """Nothing is pruned."""
        return np.ones(self.dependencies.number_of_nodes() + 1, dtype=np.bool_)

    def groups(self) -> tuple[Group, ...]:
        """The dependency groups that have a layer's output channels in them, in the order of the graph."""
        units = sorted(tuple(sorted(found)) for found in nx.connected_components(self.dependencies))
        unit_of = np.empty(self.dependencies.number_of_nodes(), dtype=np.int64)
        for index, atoms in enumerate(units):
            unit_of[list(atoms)] = index
        places, parts = self._places(unit_of), self._parts_of(unit_of)
        alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, atoms in enumerate(units):
            if any(axis in self.makers for axis in places[index]):
                signature = tuple((axis, len(found)) for axis, found in places[index].items())
                alike[signature, tuple(parts[index]), self._why_frozen(atoms)].append(index)
        return tuple(
            self._group([units[index] for index in found], [places[index] for index in found], str(key[2]))
            for key, found in alike.items()
        )

    def _places(self, unit_of: NDArray[np.int64]) -> dict[int, dict[Axis, list[int]]]:
        """Unit → the indices that it has in each axis."""
        places: dict[int, dict[Axis, list[int]]] = defaultdict(dict)
        for axis, labels in self.axes.items():
            for index in np.flatnonzero(labels >= 0).tolist():
                places[int(unit_of[labels[index]])].setdefault(axis, []).append(index)
        return places

    def _parts_of(self, unit_of: NDArray[np.int64]) -> dict[int, list[int]]:
        """Unit → the slices that it lies in: units of different slices are groups of their own."""
        parts: dict[int, list[int]] = defaultdict(list)
        for number, labels in enumerate(self.parts):
            for unit in dict.fromkeys(unit_of[labels[labels >= 0]].tolist()):
                parts[unit].append(number)
        return parts

    def _why_frozen(self, atoms: Iterable[int]) -> str:
        return next((self._reasons[atom] for atom in atoms if atom in self._reasons), "")

    def _group(self, units: list[tuple[int, ...]], places: list[dict[Axis, list[int]]], frozen: str) -> Group:
        axes = list(places[0])
        made = {axis: len(places[0][axis]) for axis in axes if axis in self.makers}
        return Group(
            layers=tuple(dict.fromkeys(self.makers[axis] for axis in made)),
            members=tuple(dict.fromkeys(axis.tensor.rpartition(".")[0] or axis.tensor for axis in axes)),
            units=tuple(units),
            places={axis: np.array([found[axis] for found in places], dtype=np.int64) for axis in axes},
            made=made,
            frozen=frozen,
        )


def kept(labels: Labels, alive: Alive) -> int:
    """How many of these indices stay."""
    return int(indices(labels, alive).size)


def indices(labels: Labels, alive: Alive) -> NDArray[np.int64]:
    """The indices that stay."""
    return np.flatnonzero(alive[labels])
