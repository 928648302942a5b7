# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""
Prepares docstrings, which have the form of those in transformers, for the reference. Names of objects, such as
[`LavitModel`], become links if the reference has the object. Types lose their backticks, since the reference shows
them as code anyway, and defaults are removed from them. An entry with several names, each with its type, becomes one
list of names.
"""

import re
from pathlib import Path

import griffe


PAGES = Path(__file__).parent / "api"
# height, width (`int`, *optional*)
NAMES = r"[\w*]+(?:(?:, | / | or )[\w*]+)* \((?:[^()]|\([^()]*\))*\)"


class Links(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        listed = [name for page in PAGES.glob("*.md") for name in re.findall(r"^::: (.+)$", page.read_text(), re.M)]
        targets = {name.rpartition(".")[2]: name for name in listed}
        for name in listed:
            part = pkg[name.partition(".")[2]]
            if part.is_module:
                targets |= {member: f"{name}.{member}" for member in part.exports or ()}
        self._link_all(pkg, targets)

    def _link_all(self, part: griffe.Object, targets: dict[str, str]) -> None:
        def link(found: re.Match) -> str:
            target = targets.get(found[1])
            return f"[`{found[1]}`][{target}]" if target else f"`{found[1]}`"

        def plain(found: re.Match) -> str:
            entries = [entry[:-1].split(" (", 1) for entry in re.findall(NAMES, found[2])]
            types = (re.sub(r"[`*]|\[(?=`\w+`\])|(?<=`)\]|, defaults to .*", "", kind) for _, kind in entries)
            if len(entries) > 1:
                types = (kind.removesuffix(", optional") for kind in types)
            return f"{found[1]}{', '.join(names for names, _ in entries)} ({' and '.join(dict.fromkeys(types))}):"

        if part.docstring:
            value = re.sub(rf"^( +)({NAMES}(?:, {NAMES})*):", plain, part.docstring.value, flags=re.M)
            part.docstring.value = re.sub(r"\[`(\w+)`\](?![\[(])", link, value)
        for member in part.members.values():
            if not member.is_alias:
                self._link_all(member, targets)
