"""Choices that cannot all be meant: preferences that lead in a circle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Choice(NamedTuple):
    """Under one prompt, `winner` was preferred to `loser`."""

    prompt: str
    winner: str
    loser: str


def circles_of_choices(choices: Iterable[Choice]) -> list[tuple[Choice, frozenset[str]]]:
    """Images of each prompt that are preferred to each other in a circle, two or more.

    Each with one of the choices, for its prompt. The strongly connected components of the graph
    of choices (Tarjan 1972), without recursion.
    """
    graphs: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for choice in choices:
        if choice.winner != choice.loser:
            graphs[choice.prompt][choice.winner].add(choice.loser)
    return [
        (Choice(prompt, *sorted(images)[:2]), images)
        for prompt, graph in graphs.items()
        for images in _components(graph)
        if len(images) > 1
    ]


def _components(graph: Mapping[str, set[str]]) -> list[frozenset[str]]:
    found: list[frozenset[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    for root in list(graph):
        if root in number:
            continue
        work = [(root, iter(sorted(graph[root])))]
        number[root] = lowest[root] = len(number)
        path.append(root)
        on_path.add(root)
        while work:
            node, others = work[-1]
            for other in others:
                if other not in number:
                    number[other] = lowest[other] = len(number)
                    path.append(other)
                    on_path.add(other)
                    work.append((other, iter(sorted(graph.get(other, ())))))
                    break
                if other in on_path:
                    lowest[node] = min(lowest[node], number[other])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == number[node]:
                    component = {path.pop()}
                    while node not in component:
                        component.add(path.pop())
                    on_path -= component
                    found.append(frozenset(component))
    return found
