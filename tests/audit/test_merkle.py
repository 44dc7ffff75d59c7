import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicegate.audit.merkle import (
    EMPTY_ROOT,
    TILE,
    Tree,
    complete_subtrees,
    consistency_spans,
    hashes_of,
    inclusion_root,
    inclusion_spans,
    is_consistent,
    joined,
    leaf_hash,
    node_hash,
    place_of,
    root_of,
)

# The eight-leaf tree of Certificate Transparency's reference implementation (merkle_tree_test.cc).
ENTRIES = [
    bytes.fromhex(entry)
    for entry in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
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
INCLUSION = [
    (0, 1, []),
    (0, 2, ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"]),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
]
CONSISTENCY = [
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        3,
        8,
        [
            "0298d122906dcfc10892cb53a73992fc5b9f493ea4c9badb27b791b4127a7fe7",
            "07506a85fd9dd2f120eb694f86011e5bb4662e5c415a62917033d4a9624487e7",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
]


# RFC 9162 §2.1, transcribed: MTH, PATH and SUBPROOF.
def naive_root(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = naive_split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def naive_path(m, leaves):
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m, leaves, known=True):
    if m == len(leaves):
        return [] if known else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], known), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def leaves_of(count):
    return [leaf_hash(str(number).encode()) for number in range(count)]


def grown(leaves, tiles=None):
    """Return a tree, and take its full tiles into ``tiles``."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
        if tiles is not None:
            tiles.update(tree.full)
            tree.full.clear()
    return tree


def root_from(tree, tiles, span):
    """The root of a span of a tree, from its edge and its stored tiles."""
    roots = []
    for height, index in complete_subtrees(span):
        level, number, first, count = place_of(height, index)
        hashes = tree.tile(level, number)
        if hashes is None:
            hashes = hashes_of(tiles[level, number])
        assert len(hashes[first : first + count]) == count
        roots.append(root_of(hashes[first : first + count]))
    return joined(roots)


LEAVES = [leaf_hash(entry) for entry in ENTRIES]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference(size):
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]
    assert grown(LEAVES[:size]).root().hex() == ROOTS[size]


def test_the_root_of_nothing_is_the_hash_of_nothing():
    assert Tree().root() == EMPTY_ROOT == bytes.fromhex(ROOTS[0])


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_inclusion_paths_are_those_of_the_reference(index, size, path):
    tree = grown(LEAVES[:size])

    assert [root_from(tree, {}, span).hex() for span in inclusion_spans(index, size)] == path
    assert inclusion_root(LEAVES[index], index, size, [bytes.fromhex(each) for each in path]).hex() == ROOTS[size]


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_consistency_paths_are_those_of_the_reference(old, new, path):
    tree = grown(LEAVES[:new])
    proof = [bytes.fromhex(each) for each in path]

    assert [root_from(tree, {}, span).hex() for span in consistency_spans(old, new)] == path
    assert is_consistent(old, bytes.fromhex(ROOTS[old]), new, bytes.fromhex(ROOTS[new]), proof)


@pytest.mark.parametrize("size", range(1, 40))
def test_every_proof_of_a_small_tree_is_the_one_the_rfc_defines(size):
    leaves = leaves_of(size)
    tree = grown(leaves)
    root = naive_root(leaves)
    assert tree.root() == root

    for index in range(size):
        path = [root_from(tree, {}, span) for span in inclusion_spans(index, size)]
        assert path == naive_path(index, leaves)
        assert inclusion_root(leaves[index], index, size, path) == root
    for old in range(1, size + 1):
        path = [root_from(tree, {}, span) for span in consistency_spans(old, size)]
        assert path == naive_subproof(old, leaves)
        assert is_consistent(old, naive_root(leaves[:old]), size, root, path)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_proofs_from_tiles_are_those_of_the_whole_tree_at_any_size(data):
    size = data.draw(st.one_of(st.integers(1, 3000), st.sampled_from([TILE, TILE + 1, 2 * TILE, 2 * TILE + 1])))
    then = data.draw(st.integers(1, size))
    index = data.draw(st.integers(0, then - 1))
    leaves, tiles = leaves_of(size), {}
    tree = grown(leaves, tiles)

    assert tree.root() == naive_root(leaves)
    assert [root_from(tree, tiles, span) for span in inclusion_spans(index, then)] == naive_path(index, leaves[:then])
    path = [root_from(tree, tiles, span) for span in consistency_spans(then, size)]
    assert path == naive_subproof(then, leaves)
    assert is_consistent(then, naive_root(leaves[:then]), size, tree.root(), path)


@pytest.mark.parametrize("size", [TILE**2 - 1, TILE**2, TILE**2 + 1, TILE**2 + TILE, TILE**2 + TILE + 1])
def test_proofs_reach_over_three_levels_of_tiles(size):
    leaves, tiles = leaves_of(size), {}
    tree = grown(leaves, tiles)
    root = root_of(leaves)
    assert tree.root() == root
    assert {(level, len(data)) for (level, _), data in tiles.items()} <= {(0, 8192), (1, 8192)}

    for index in (0, 1, TILE, TILE**2 - 2, size // 2, size - 1):
        path = [root_from(tree, tiles, span) for span in inclusion_spans(index, size)]
        assert inclusion_root(leaves[index], index, size, path) == root
    for old in (1, TILE, TILE + 3, TILE**2 - 1, size - 1, size):
        path = [root_from(tree, tiles, span) for span in consistency_spans(old, size)]
        assert is_consistent(old, root_of(leaves[:old]), size, root, path)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 513, 1000, TILE**2, TILE**2 + 1])
def test_a_tree_goes_on_from_its_edge(size):
    leaves = leaves_of(size + 300)
    tree = grown(leaves[:size])
    again = Tree(*tree.edge())
    assert (again.size, again.root(), again.last) == (size, tree.root(), tree.last)

    again.full.clear()
    tree.full.clear()
    for leaf in leaves[size:]:
        tree.append(leaf)
        again.append(leaf)

    assert (again.root(), again.full, again.edge()) == (tree.root(), tree.full, tree.edge())


@pytest.mark.parametrize("size", [1, 255, 256, 257, 512, 600, TILE**2, TILE**2 + 1])
def test_no_hash_of_an_edge_can_be_changed_under_its_root(size):
    tree = grown(leaves_of(size))
    levels, leaves = tree.edge()
    assert leaves[-1] == tree.last

    for edge in (*levels, leaves):
        for position in {0, len(edge) // 2, len(edge) - 1} if edge else ():
            kept, edge[position] = edge[position], bytes(32)
            assert Tree(levels, leaves).root() != tree.root()
            edge[position] = kept


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_inclusion_proof_leads_elsewhere(data):
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    root, path = naive_root(leaves), naive_path(index, leaves)

    assert inclusion_root(leaf_hash(b"other"), index, size, path) != root
    for other in set(range(size)) - {index}:
        assert inclusion_root(leaves[index], other, size, path) != root
    assert inclusion_root(leaves[index], index, size, [*path, bytes(32)]) is None
    for position in range(len(path)):
        assert inclusion_root(leaves[index], index, size, path[:position] + path[position + 1 :]) is None
        assert inclusion_root(leaves[index], index, size, [*path[:position], bytes(32), *path[position + 1 :]]) != root


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0), (5, 4), (0, -1)])
def test_leaves_that_are_not_in_the_tree_have_no_proof(index, size):
    for length in range(5):
        assert inclusion_root(LEAVES[0], index, size, LEAVES[1 : length + 1]) is None
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_spans(index, size)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_consistency_proof_is_refused(data):
    new = data.draw(st.integers(2, 70))
    old = data.draw(st.integers(1, new - 1))
    leaves = leaves_of(new)
    old_root, new_root, path = naive_root(leaves[:old]), naive_root(leaves), naive_subproof(old, leaves)
    forked = naive_root([*leaves[: old - 1], leaf_hash(b"other")])

    assert not is_consistent(old, forked, new, new_root, path)
    assert not is_consistent(old, old_root, new, forked, path)
    assert not is_consistent(old, old_root, new, new_root, [])
    assert not is_consistent(old, old_root, new, new_root, [*path, bytes(32)])
    for position in range(len(path)):
        assert not is_consistent(old, old_root, new, new_root, path[:position] + path[position + 1 :])
        changed = [*path[:position], bytes(32), *path[position + 1 :]]
        assert not is_consistent(old, old_root, new, new_root, changed)


def test_a_consistency_proof_has_the_length_it_must_have_even_for_roots_made_to_fit():
    """Of trees of 1 and 4 leaves: a path that ends early, and one that goes on."""
    one, four = LEAVES[0], root_of(LEAVES[:4])
    path = [LEAVES[1], node_hash(LEAVES[2], LEAVES[3])]
    assert is_consistent(1, one, 4, four, path)

    assert not is_consistent(1, one, 4, node_hash(one, LEAVES[1]), path[:1])
    assert not is_consistent(1, node_hash(bytes(32), one), 4, node_hash(bytes(32), four), [*path, bytes(32)])
    three = naive_subproof(3, LEAVES[:4])
    assert not is_consistent(
        3,
        node_hash(bytes(32), root_of(LEAVES[:3])),
        4,
        node_hash(bytes(32), four),
        [*three, bytes(32)],
    )


def test_trees_of_one_size_are_consistent_only_when_equal():
    assert is_consistent(3, LEAVES[0], 3, LEAVES[0], [])
    assert not is_consistent(3, LEAVES[0], 3, LEAVES[1], [])
    assert not is_consistent(3, LEAVES[0], 3, LEAVES[0], [bytes(32)])


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 4), (-1, 4), (5, 4)])
def test_no_tree_is_proven_to_continue_the_empty_or_a_larger_one(old, new):
    assert not is_consistent(old, EMPTY_ROOT, new, LEAVES[0], [])
    assert not is_consistent(old, EMPTY_ROOT, new, LEAVES[0], [LEAVES[1]])
    with pytest.raises(ValueError, match="continues none"):
        consistency_spans(old, new)


def test_a_node_is_never_taken_for_a_leaf():
    left, right = LEAVES[:2]

    assert leaf_hash(left + right) != node_hash(left, right)


def test_appending_costs_the_same_however_large_the_tree(monkeypatch):
    hashes = 0
    real = hashlib.sha256

    def counted(data):
        nonlocal hashes
        hashes += 1
        return real(data)

    monkeypatch.setattr("sluicegate.audit.merkle.sha256", counted)
    tree = Tree()
    for leaf in random.Random(1).choices(LEAVES, k=10_000):
        tree.append(leaf)

    assert hashes < 10_000
