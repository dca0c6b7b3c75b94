"""Whether tree-sitter's grammar of bash finds the same commands in a text as our own reader does.

Neither is bash. The grammar forgives what bash refuses, takes some line breaks and escaped blanks
for nothing, and mends what it does not understand; our reader refuses much that is right. Where
both begin each word and each command at the same place, and the tree has no error, what one of
them misreads the other one had to misread in the same way.

Grammar: github.com/tree-sitter/tree-sitter-bash.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

import tree_sitter
import tree_sitter_bash

from agentaudit.risk.shell_reading import Reading

PARSER: Final = f"tree-sitter-bash {version('tree-sitter-bash')}"

_BASH: Final = tree_sitter.Language(tree_sitter_bash.language())

_NAMED: Final = frozenset(["declaration_command", "unset_command"])
_HOLDS_WORDS: Final = _NAMED | {
    *("command", "file_redirect", "herestring_redirect", "heredoc_redirect"),
}
_NO_WORDS: Final = frozenset(
    [
        *("file_redirect", "herestring_redirect", "heredoc_redirect", "heredoc_start"),
        *("heredoc_body", "heredoc_end", "file_descriptor", "comment", "command", "pipeline"),
        *("list", "negated_command", "subshell", "compound_statement", "test_command"),
        *("redirected_statement", "declaration_command", "unset_command", "if_statement"),
        *("for_statement", "while_statement", "function_definition", "variable_assignments"),
    ]
)


def agrees(text: str, reading: Reading) -> bool:
    """Return whether the grammar reads `text` without an error, and as `reading` says."""
    encoded = text.encode()
    root = tree_sitter.Parser(_BASH).parse(encoded).root_node
    if root.has_error:
        return False
    names, words = _places(root)
    if encoded.isascii():
        return names == reading.names and words == reading.words
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + len(character.encode()))
    return names == {offsets[at] for at in reading.names} and words == {
        offsets[at] for at in reading.words
    }


def _places(root: tree_sitter.Node) -> tuple[set[int], set[int]]:
    """Return where the name of each command and each word begins, in bytes."""
    names: set[int] = set()
    words: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        kind = node.type
        children = node.children
        stack += children
        if kind == "test_command":
            names.add(node.start_byte)
        elif kind in _NAMED:
            names.add(node.start_byte)
            words.add(node.start_byte)
        elif kind == "variable_assignment":
            words.add(node.start_byte)
        elif kind == "for_statement":
            words.update(each.start_byte for each in node.children_by_field_name("value"))
        if kind in _HOLDS_WORDS:
            for child in children:
                if child.is_named and child.type not in _NO_WORDS:
                    words.add(child.start_byte)
                    if child.type == "command_name":
                        names.add(child.start_byte)
    return names, words
