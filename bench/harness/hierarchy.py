"""A taxonomy read from a file of networkx (node-link JSON): who is whose ancestor, parent, and how deep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

WORDNET = Path(__file__).parents[3] / "shared" / "data" / "wordnet_mammals.json"


@dataclass(frozen=True)
class Hierarchy:
    """Names of N nodes and the transitive closure of "is a", (N, N) bool: row u has the ancestors of u."""

    names: list[str]
    closure: Tensor

    @staticmethod
    def read(path: Path) -> Hierarchy:
        """The edges of the file lead from the general to the specific."""
        graph = json.loads(path.read_text(encoding="utf-8"))
        index = {node["id"]: i for i, node in enumerate(graph["nodes"])}
        closure = torch.zeros(len(index), len(index), dtype=torch.bool)
        for edge in graph.get("edges", graph.get("links")):  # networkx before 3.4 wrote links
            closure[index[edge["target"]], index[edge["source"]]] = True
        if bool((closure & closure.T).any()):
            raise ValueError(f"{path} is no hierarchy: it has a cycle")
        return Hierarchy([node["label"] for node in graph["nodes"]], closure)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def edges(self) -> Tensor:
        """All pairs (node, ancestor), (E, 2)."""
        return self.closure.nonzero()

    @cached_property
    def parents(self) -> Tensor:
        """The parent of each node, (N,); of several the deepest, and the node itself for a root."""
        # an ancestor that no other ancestor has in between
        between = (self.closure.float() @ self.closure.float()) > 0
        direct = self.closure & ~between
        rank = torch.where(direct, self.closure.sum(1) + 1, 0).max(1)
        return torch.where(rank.values > 0, rank.indices, torch.arange(len(self)))

    @cached_property
    def tree(self) -> Tensor:
        """The closure of the parents alone, each node its own ancestor too, (N, N) bool."""
        ancestors, node = torch.zeros_like(self.closure), torch.arange(len(self))
        for _ in range(len(self)):
            ancestors[torch.arange(len(self)), node] = True
            above = self.parents[node]
            if torch.equal(above, node):
                break
            node = above
        return ancestors

    @cached_property
    def depths(self) -> Tensor:
        """Steps from the root, (N,)."""
        return self.tree.sum(1) - 1

    def leaves(self) -> Tensor:
        """The nodes without descendants."""
        return (~self.closure.any(0)).nonzero().flatten()
