"""The Merkle tree of RFC 6962, growing and proven.

The tree is never kept whole: a `Frontier` holds one hash for each complete subtree along the
right edge, which is all that a growing tree needs (20 hashes at a million leaves). The proofs
below work on leaf hashes that the caller read back.

Source: RFC 6962, section 2.1; RFC 9162, section 2.1 for the verification of proofs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

from agentaudit import _native

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the 32-byte hash of a leaf: SHA-256(0x00 ‖ entry)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of an inner node: SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: append leaf hashes, ask for the root at any time."""

    __slots__ = ("_subtrees", "size")

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        # Roots of the complete subtrees from left to right; their sizes are the set bits of
        # `size`, largest first.
        self._subtrees: list[bytes] = []
        for leaf in leaves:
            self.append(leaf)

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf."""
        subtrees, size = self._subtrees, self.size
        while size & 1:
            leaf = sha256(b"\x01" + subtrees.pop() + leaf).digest()
            size >>= 1
        subtrees.append(leaf)
        self.size += 1

    def extend(self, leaves: bytes | bytearray | memoryview) -> None:
        """Add leaf hashes, 32 bytes each, one behind the other."""
        grown = _native.extend_tree(b"".join(self._subtrees), self.size, leaves)
        self._subtrees = [grown[at : at + 32] for at in range(0, len(grown), 32)]
        self.size += len(leaves) // 32

    def stops(self, leaves: memoryview, sizes: Iterable[int]) -> Iterator[int]:
        """Add leaf hashes as `extend` does, and yield each of `sizes` when the tree has it."""
        begin, end = self.size, self.size + len(leaves) // HASH_BYTES
        for size in sorted(size for size in sizes if begin < size <= end):
            self.extend(leaves[HASH_BYTES * (self.size - begin) : HASH_BYTES * (size - begin)])
            yield size
        self.extend(leaves[HASH_BYTES * (self.size - begin) :])

    def root(self) -> bytes:
        """Return the 32-byte root over all leaves so far."""
        if not self._subtrees:
            return EMPTY_ROOT
        root = self._subtrees[-1]
        for subtree in reversed(self._subtrees[:-1]):
            root = node_hash(subtree, root)
        return root


class WholeTree:
    """A tree of which every level is kept, 64 bytes a leaf: many proofs for one hashing."""

    def __init__(self, leaves: bytes | bytearray) -> None:
        """Hash the tree over `leaves`, 32 bytes each."""
        self.size = len(leaves) // HASH_BYTES
        self._levels: list[bytes | bytearray] = [leaves]
        while len(self._levels[-1]) > HASH_BYTES:
            below = self._levels[-1]
            whole = len(below) - len(below) % (2 * HASH_BYTES)
            above = bytearray()
            for at in range(0, whole, 2 * HASH_BYTES):
                above += sha256(b"\x01" + below[at : at + 2 * HASH_BYTES]).digest()
            # A subtree without a sibling rises as it is, which is how RFC 6962 splits a tree.
            above += below[whole:]
            self._levels.append(above)

    def root(self) -> bytes:
        """Return the 32-byte root."""
        return bytes(self._levels[-1]) if self.size else EMPTY_ROOT

    def inclusion_proof(self, index: int) -> list[bytes]:
        """Return what the function of this name returns.

        Raises:
            IndexError: `index` is not below the number of leaves.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"leaf {index} of a tree of {self.size}")
        proof = []
        for level in self._levels[:-1]:
            at = HASH_BYTES * (index ^ 1)
            if at < len(level):
                proof.append(bytes(level[at : at + HASH_BYTES]))
            index >>= 1
        return proof


class GappedFrontier(Frontier):
    """A frontier of which some leaves are known beforehand, by index, ascending.

    What is appended takes the places between them.
    """

    __slots__ = ("_ahead", "_known")

    def __init__(self, known: Iterable[tuple[int, bytes]]) -> None:
        super().__init__()
        self._known = iter(known)
        self._ahead = next(self._known, None)
        self._fill()

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf that is not known, and those known behind it."""
        super().append(leaf)
        self._fill()

    def _fill(self) -> None:
        while self._ahead is not None and self._ahead[0] == self.size:
            super().append(self._ahead[1])
            self._ahead = next(self._known, None)


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """Return the 32-byte root over `leaves`, which are leaf hashes."""
    return Frontier(leaves).root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the 32-byte sibling hashes from leaf `index` up to the root.

    Raises:
        IndexError: `index` is not below the number of leaves.

    Source: RFC 6962, section 2.1.1.
    """
    size = len(leaves)
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} of a tree of {size}")
    if size == 1:
        return []
    split = _split(size)
    if index < split:
        return [*inclusion_proof(leaves[:split], index), tree_root(leaves[split:])]
    return [*inclusion_proof(leaves[split:], index - split), tree_root(leaves[:split])]


def inclusion_proofs(
    leaves: Iterable[bytes], wanted: Iterable[int]
) -> tuple[bytes, dict[int, list[bytes]]]:
    """Return the root over `leaves`, and what `inclusion_proof` gives for each of `wanted`.

    The leaves are read once and not held.

    Raises:
        IndexError: one of `wanted` is not below the number of leaves.
    """
    proofs: dict[int, list[bytes]] = {index: [] for index in wanted}
    order = sorted(proofs)
    subtrees: list[tuple[int, int, bytes]] = []  # first leaf, number of leaves, root
    size = 0

    def join() -> None:
        middle, width, right = subtrees.pop()
        first, left_width, left = subtrees.pop()
        at = bisect_left(order, middle)
        for index in order[bisect_left(order, first) : at]:
            proofs[index].append(right)
        for index in order[at : bisect_left(order, middle + width)]:
            proofs[index].append(left)
        subtrees.append((first, left_width + width, node_hash(left, right)))

    for leaf in leaves:
        subtrees.append((size, 1, leaf))
        size += 1
        complete = size
        while not complete & 1:
            join()
            complete >>= 1
    while len(subtrees) > 1:
        join()
    if order and not (order[0] >= 0 and order[-1] < size):
        raise IndexError(f"leaf {order[-1]} of a tree of {size}")
    return (subtrees[0][2] if subtrees else EMPTY_ROOT), proofs


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return the hashes that prove the first `old_size` leaves unchanged.

    Raises:
        IndexError: `old_size` is not between 1 and the number of leaves.

    Source: RFC 6962, section 2.1.2.
    """
    if not 1 <= old_size <= len(leaves):
        raise IndexError(f"tree of {old_size} within a tree of {len(leaves)}")
    return _subproof(leaves, old_size, whole=True)


def _subproof(leaves: Sequence[bytes], old_size: int, *, whole: bool) -> list[bytes]:
    size = len(leaves)
    if old_size == size:
        return [] if whole else [tree_root(leaves)]
    split = _split(size)
    if old_size <= split:
        return [*_subproof(leaves[:split], old_size, whole=whole), tree_root(leaves[split:])]
    return [
        *_subproof(leaves[split:], old_size - split, whole=False),
        tree_root(leaves[:split]),
    ]


def verifies_inclusion(
    proof: Sequence[bytes], *, leaf: bytes, index: int, size: int, root: bytes
) -> bool:
    """Say whether `proof` shows `leaf` at `index` of the tree of `size` with `root`.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    fn, sn, computed = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            computed = node_hash(sibling, computed)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            computed = node_hash(computed, sibling)
        fn >>= 1
        sn >>= 1
    return sn == 0 and computed == root


def verifies_consistency(
    proof: Sequence[bytes], *, old_size: int, old_root: bytes, size: int, root: bytes
) -> bool:
    """Say whether `proof` shows that the tree of `size` only appended to that of `old_size`.

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 1 <= old_size <= size:
        return False
    if old_size == size:
        return not proof and old_root == root
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    fn, sn = old_size - 1, size - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    old_computed = computed = path[0]
    for sibling in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            old_computed = node_hash(sibling, old_computed)
            computed = node_hash(sibling, computed)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            computed = node_hash(computed, sibling)
        fn >>= 1
        sn >>= 1
    return sn == 0 and old_computed == old_root and computed == root


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)
