//! The Merkle tree of RFC 6962 §2.1 (RFC 9162 §2.1) over hashes that are stored elsewhere: roots and proofs are
//! made here, and checked by a library of others' making.

use aws_lc_rs::digest::{Context, SHA256, digest};
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use sha2::Sha256;

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// Most leaves that a tree may have here. It keeps all arithmetic on sizes far from its ends.
pub const MAX_SIZE: u64 = 1 << 48;

/// Something that was to be proved is not so, or the proof is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not hold")]
pub struct NotProved;

/// The hash of a leaf: SHA-256 of a zero byte and the entry.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    hash(&[&[0], entry])
}

/// The hash of an inner node: SHA-256 of a one byte and the hashes below it.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash(&[&[1], left, right])
}

/// The root of the tree without leaves.
pub fn empty_root() -> Hash {
    hash(&[])
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    to_hash(context.finish().as_ref())
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Hash {
    to_hash(digest(&SHA256, bytes).as_ref())
}

fn to_hash(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(bytes);
    hash
}

/// Where the hashes of complete subtrees are.
pub trait Nodes {
    /// Why a hash cannot be had.
    type Error;

    /// The hash of the complete subtree of `2^level` leaves, the `index`th of its size from the left.
    fn node(&mut self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// The root of the first `size` leaves.
pub fn root<N: Nodes>(nodes: &mut N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 { Ok(empty_root()) } else { range(nodes, 0, size) }
}

/// PATH of RFC 9162 §2.1.3.1: that leaf `index` is in the tree of `size` leaves. Empty if it is not.
pub fn inclusion<N: Nodes>(nodes: &mut N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let (mut start, mut end, mut proof) = (0, size, Vec::new());
    while index < end && end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(range(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(range(nodes, start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// PROOF of RFC 9162 §2.1.4.1: that the tree of `old` leaves is the beginning of the one of `size`. Empty if `old`
/// is 0 or not less than `size`.
pub fn consistency<N: Nodes>(nodes: &mut N, old: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let (mut start, mut end, mut whole, mut proof) = (0, size, true, Vec::new());
    if old == 0 || old >= size {
        return Ok(proof);
    }
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(range(nodes, start, middle)?);
            start = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(range(nodes, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks an inclusion proof against a root.
pub fn check_inclusion(
    entry: &[u8],
    index: u64,
    size: u64,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), NotProved> {
    if index >= size || size > MAX_SIZE {
        return Err(NotProved);
    }
    let proof = InclusionProof::<Sha256>::try_from_bytes(proof.concat()).map_err(|_| NotProved)?;
    head(size, root).verify_inclusion(&entry, index, &proof).map_err(|_| NotProved)
}

/// Checks a consistency proof between two roots. Every tree continues the empty one.
pub fn check_consistency(old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]) -> Result<(), NotProved> {
    if old.0 > new.0 || new.0 > MAX_SIZE {
        return Err(NotProved);
    }
    if old.0 == 0 || old.0 == new.0 {
        let same = if old.0 == new.0 { old.1 == new.1 } else { *old.1 == empty_root() };
        return if same && proof.is_empty() { Ok(()) } else { Err(NotProved) };
    }
    let proof = ConsistencyProof::<Sha256>::try_from_bytes(proof.concat()).map_err(|_| NotProved)?;
    head(new.0, new.1).verify_consistency(&head(old.0, old.1), &proof).map_err(|_| NotProved)
}

fn head(size: u64, root: &Hash) -> RootHash<Sha256> {
    RootHash::new((*root).into(), size)
}

/// The hash over leaves `start` to `end`; `start` is where a subtree of that many leaves can begin.
fn range<N: Nodes>(nodes: &mut N, start: u64, end: u64) -> Result<Hash, N::Error> {
    let length = end - start;
    if length.is_power_of_two() {
        let level = length.trailing_zeros();
        return nodes.node(level, start >> level);
    }
    let middle = start + split(length);
    let left = range(nodes, start, middle)?;
    Ok(node_hash(&left, &range(nodes, middle, end)?))
}

/// The greatest power of two below `length`, which is at least 2.
fn split(length: u64) -> u64 {
    1 << (length - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use std::convert::Infallible;

    /// All leaves in memory.
    struct Leaves(Vec<Hash>);

    impl Nodes for Leaves {
        type Error = Infallible;
        fn node(&mut self, level: u32, index: u64) -> Result<Hash, Infallible> {
            if level == 0 {
                return Ok(self.0[usize::try_from(index).unwrap()]);
            }
            let left = self.node(level - 1, 2 * index)?;
            Ok(node_hash(&left, &self.node(level - 1, 2 * index + 1)?))
        }
    }

    fn entry(n: u64) -> Vec<u8> {
        format!("entry {n}").into_bytes()
    }

    #[test]
    fn roots_and_all_proofs_are_byte_for_byte_those_of_another_library() {
        let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let mut ours = Leaves(Vec::new());
        let mut roots = vec![empty_root()];
        assert_eq!(root(&mut ours, 0).unwrap(), empty_root());
        for size in 1..=70_u64 {
            theirs.push(entry(size - 1));
            ours.0.push(leaf_hash(&entry(size - 1)));
            let root = root(&mut ours, size).unwrap();
            assert_eq!(root.as_slice(), theirs.root().as_bytes().as_slice());
            for index in 0..size {
                let proof = inclusion(&mut ours, index, size).unwrap();
                let at = usize::try_from(index).unwrap();
                assert_eq!(proof.concat(), theirs.prove_inclusion(at).as_bytes(), "{index} of {size}");
                check_inclusion(&entry(index), index, size, &root, &proof).unwrap();
                assert_eq!(check_inclusion(b"other", index, size, &root, &proof), Err(NotProved));
            }
            for old in 1..size {
                let proof = consistency(&mut ours, old, size).unwrap();
                let added = usize::try_from(size - old).unwrap();
                assert_eq!(proof.concat(), theirs.prove_consistency(added).as_bytes(), "{old} to {size}");
                let old = (old, &roots[usize::try_from(old).unwrap()]);
                check_consistency(old, (size, &root), &proof).unwrap();
                assert_eq!(check_consistency((old.0, &[7; 32]), (size, &root), &proof), Err(NotProved));
            }
            roots.push(root);
        }
    }

    #[test]
    fn what_is_no_proof_is_refused_without_a_panic() {
        let (root, hash) = (empty_root(), [1; 32]);
        for (index, size) in [(0, 0), (1, 1), (5, 4), (u64::MAX, u64::MAX), (1 << 63, u64::MAX), (0, 9)] {
            for proof in [vec![], vec![hash], vec![hash; 64]] {
                assert_eq!(check_inclusion(b"x", index, size, &hash, &proof), Err(NotProved));
            }
        }
        for (old, new) in [(2, 1), (1, u64::MAX), (u64::MAX, u64::MAX), (3, 7)] {
            assert_eq!(check_consistency((old, &root), (new, &hash), &[hash]), Err(NotProved));
        }
        check_consistency((0, &root), (3, &hash), &[]).unwrap();
        assert_eq!(check_consistency((0, &hash), (3, &hash), &[]), Err(NotProved));
        assert_eq!(check_consistency((3, &root), (3, &hash), &[]), Err(NotProved));
        assert_eq!(check_consistency((3, &hash), (3, &hash), &[hash]), Err(NotProved));
    }
}
