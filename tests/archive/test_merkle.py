"""The tree, against Certificate Transparency's published vectors and RFC 6962's recursion."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.archive.merkle import (
    EMPTY_ROOT,
    Frontier,
    WholeTree,
    consistency_proof,
    inclusion_proof,
    inclusion_proofs,
    leaf_hash,
    node_hash,
    tree_root,
    verifies_consistency,
    verifies_inclusion,
)
from tests.archive import straight

# Source: google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc, and
# transparency-dev/merkle, testonly/constants.go.
CT_LEAVES = [
    bytes.fromhex(entry)
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
N1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
N23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
N4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
N45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
N4567 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
N67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
CT_INCLUSION = [
    (0, 1, []),
    (0, 8, [N1, N23, N4567]),
    (5, 8, [N4, N67, CT_ROOTS[4]]),
    (2, 3, [CT_ROOTS[2]]),
    (1, 5, [CT_ROOTS[1], N23, N4]),
]
CT_CONSISTENCY = [
    (1, 1, []),
    (1, 8, [N1, N23, N4567]),
    (6, 8, [N45, N67, CT_ROOTS[4]]),
    (2, 5, [N23, N4]),
]
HASHES = [leaf_hash(leaf) for leaf in CT_LEAVES]

sizes = st.integers(1, 70)


def made(size: int) -> list[bytes]:
    return [leaf_hash(n.to_bytes(4)) for n in range(size)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_published_for_certificate_transparency(size: int) -> None:
    assert tree_root(HASHES[:size]).hex() == CT_ROOTS[size]


def test_the_root_of_no_leaves_is_the_hash_of_nothing() -> None:
    assert Frontier().root() == EMPTY_ROOT == sha256(b"").digest()


@pytest.mark.parametrize(("index", "size", "proof"), CT_INCLUSION)
def test_inclusion_proofs_are_those_published(index: int, size: int, proof: list[str]) -> None:
    found = inclusion_proof(HASHES[:size], index)
    assert [h.hex() for h in found] == proof
    root = bytes.fromhex(CT_ROOTS[size])
    assert verifies_inclusion(found, leaf=HASHES[index], index=index, size=size, root=root)


@pytest.mark.parametrize(("old_size", "size", "proof"), CT_CONSISTENCY)
def test_consistency_proofs_are_those_published(old_size: int, size: int, proof: list[str]) -> None:
    found = consistency_proof(HASHES[:size], old_size)
    assert [h.hex() for h in found] == proof
    assert verifies_consistency(
        found,
        old_size=old_size,
        old_root=bytes.fromhex(CT_ROOTS[old_size]),
        size=size,
        root=bytes.fromhex(CT_ROOTS[size]),
    )


@given(st.lists(st.binary(max_size=3), max_size=80))
def test_a_growing_tree_agrees_with_the_recursion_of_rfc_6962_at_every_size(
    entries: list[bytes],
) -> None:
    frontier, leaves = Frontier(), []
    assert frontier.root() == straight.tree([])
    for entry in entries:
        leaves.append(leaf_hash(entry))
        frontier.append(leaves[-1])
        assert frontier.size == len(leaves)
        assert frontier.root() == straight.tree(leaves)


@given(sizes, st.data())
def test_every_inclusion_proof_is_that_of_rfc_6962_and_verifies(size: int, data: st.DataObject):
    index = data.draw(st.integers(0, size - 1))
    leaves = made(size)
    proof = inclusion_proof(leaves, index)
    assert proof == straight.path(index, leaves)
    root = tree_root(leaves)
    assert verifies_inclusion(proof, leaf=leaves[index], index=index, size=size, root=root)


def test_a_whole_tree_gives_the_root_and_proofs_of_rfc_6962_at_every_size() -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(70)]
    for size in range(70):
        tree = WholeTree(b"".join(leaves[:size]))
        assert tree.root() == straight.tree(leaves[:size])
        for index in range(size):
            assert tree.inclusion_proof(index) == straight.path(index, leaves[:size])
        with pytest.raises(IndexError):
            tree.inclusion_proof(size)
        wanted = [index for index in range(size) if index % 3 != 1]
        root, proofs = inclusion_proofs(iter(leaves[:size]), wanted)
        assert root == tree.root()
        assert proofs == {index: tree.inclusion_proof(index) for index in wanted}
        with pytest.raises(IndexError):
            inclusion_proofs(iter(leaves[:size]), [size])


@given(sizes, st.data())
def test_every_consistency_proof_is_that_of_rfc_6962_and_verifies(size: int, data: st.DataObject):
    old_size = data.draw(st.integers(1, size))
    leaves = made(size)
    proof = consistency_proof(leaves, old_size)
    assert proof == straight.proof(old_size, leaves)
    assert verifies_consistency(
        proof,
        old_size=old_size,
        old_root=tree_root(leaves[:old_size]),
        size=size,
        root=tree_root(leaves),
    )


@given(sizes, st.data())
def test_an_inclusion_proof_with_anything_changed_is_rejected(size: int, data: st.DataObject):
    index = data.draw(st.integers(0, size - 1))
    leaves = made(size)
    proof, root = inclusion_proof(leaves, index), tree_root(leaves)
    other = leaf_hash(b"another")

    def verifies(**changed: object) -> bool:
        right: dict[str, object] = {
            "proof": proof,
            "leaf": leaves[index],
            "index": index,
            "size": size,
            "root": root,
        }
        merged = right | changed
        return verifies_inclusion(merged.pop("proof"), **merged)  # type: ignore[arg-type]

    assert verifies()
    assert not verifies(leaf=other)
    assert not verifies(root=other)
    assert not verifies(proof=[*proof, other])
    for place in range(len(proof)):
        assert not verifies(proof=[*proof[:place], other, *proof[place + 1 :]])
        assert not verifies(proof=[*proof[:place], *proof[place + 1 :]])
    for wrong in {-1, size, size + 1, *range(size)} - {index}:
        assert not verifies(index=wrong)


@given(sizes, st.data())
def test_a_consistency_proof_with_anything_changed_is_rejected(size: int, data: st.DataObject):
    old_size = data.draw(st.integers(1, size))
    leaves = made(size)
    right: dict[str, object] = {
        "proof": consistency_proof(leaves, old_size),
        "old_size": old_size,
        "old_root": tree_root(leaves[:old_size]),
        "size": size,
        "root": tree_root(leaves),
    }
    other = leaf_hash(b"another")

    def verifies(**changed: object) -> bool:
        merged = right | changed
        return verifies_consistency(merged.pop("proof"), **merged)  # type: ignore[arg-type]

    proof: list[bytes] = list(right["proof"])  # type: ignore[call-overload]
    assert verifies()
    assert not verifies(old_root=other)
    assert not verifies(root=other)
    assert not verifies(proof=[*proof, other])
    assert not verifies(old_size=0)
    assert not verifies(old_size=size + 1)
    for place in range(len(proof)):
        assert not verifies(proof=[*proof[:place], other, *proof[place + 1 :]])
        assert not verifies(proof=[*proof[:place], *proof[place + 1 :]])


def test_a_proof_of_nothing_between_two_sizes_is_rejected() -> None:
    assert not verifies_consistency(
        [], old_size=3, old_root=tree_root(made(3)), size=5, root=tree_root(made(5))
    )


@pytest.mark.parametrize("index", [-1, 3, 4])
def test_a_leaf_that_is_not_there_has_no_proof(index: int) -> None:
    with pytest.raises(IndexError, match=f"leaf {index} of a tree of 3"):
        inclusion_proof(made(3), index)


@pytest.mark.parametrize("old_size", [0, 4])
def test_a_tree_that_was_never_there_has_no_consistency_proof(old_size: int) -> None:
    with pytest.raises(IndexError, match=f"tree of {old_size} within a tree of 3"):
        consistency_proof(made(3), old_size)


def test_a_leaf_never_hashes_like_an_inner_node() -> None:
    left, right = made(2)
    assert leaf_hash(left + right) != node_hash(left, right)
