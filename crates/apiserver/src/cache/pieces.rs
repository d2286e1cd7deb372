//! What many watches of a kind are about to be sent, made once.
//!
//! After an announcement every watch reads the same changes from the ring, asks the same selectors of each, and joins the
//! same lines. The first of those that see alike leaves the outcome here for the others, so that a change costs the hundredth
//! watch what it costs to send the bytes. A watch that comes late finds nothing and reads the ring itself.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Pieces kept for a kind: those of the announcement before and of this one, for two groups of watches.
const KEPT: usize = 4;

/// What decides how a watch shows changes. Watches with equal sights show the same bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its namespace; empty for all.
    pub namespace: String,
    /// The name of the one object that is watched; empty for all.
    pub name: String,
    /// `labelSelector`, as sent.
    pub labels: String,
    /// `fieldSelector`, as sent.
    pub fields: String,
    /// The version in which objects are shown.
    pub api_version: String,
    /// Whether they are shown in protobuf.
    pub protobuf: bool,
}

/// Changes from one position of the ring to another, as a sight shows them.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Position of the first change.
    pub from: u64,
    /// The position after the last.
    pub to: u64,
    /// The newest revision shown; 0 when nothing is.
    pub newest: u64,
    /// What is sent; `None` when nothing of it is in sight.
    pub bytes: Option<Bytes>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pieces(Mutex<VecDeque<(Arc<Sight>, Piece)>>);

impl Pieces {
    /// The piece that begins at a position.
    pub fn find(&self, from: u64, sight: &Sight) -> Option<Piece> {
        let kept = self.0.lock();
        // The newest first.
        let found = kept.iter().rev().find(|(seen, piece)| piece.from == from && **seen == *sight);
        found.map(|(_, piece)| piece.clone())
    }

    /// Keeps a piece, unless somebody else was faster.
    pub fn keep(&self, sight: &Arc<Sight>, piece: Piece) {
        let mut kept = self.0.lock();
        if kept.iter().any(|(seen, other)| other.from == piece.from && **seen == **sight) {
            return;
        }
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((sight.clone(), piece));
    }

    /// Forgets all pieces.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(labels: &str) -> Arc<Sight> {
        let (namespace, name, fields) = ("d".into(), String::new(), String::new());
        Arc::new(Sight { namespace, name, labels: labels.into(), fields, api_version: "v1".into(), protobuf: false })
    }

    fn piece(from: u64, to: u64, text: &'static str) -> Piece {
        Piece { from, to, newest: to, bytes: Some(Bytes::from_static(text.as_bytes())) }
    }

    #[test]
    fn a_piece_is_for_those_who_see_alike_and_stand_at_its_beginning() {
        let pieces = Pieces::default();
        pieces.keep(&sight("a"), piece(1, 3, "first"));
        pieces.keep(&sight("a"), piece(1, 2, "late"));
        let found = pieces.find(1, &sight("a")).unwrap();
        assert_eq!((found.to, found.newest, found.bytes.as_deref()), (3, 3, Some(&b"first"[..])));
        assert!(pieces.find(1, &sight("b")).is_none() && pieces.find(2, &sight("a")).is_none());
        pieces.clear();
        assert!(pieces.find(1, &sight("a")).is_none());
    }

    #[test]
    fn only_the_last_are_kept() {
        let pieces = Pieces::default();
        for from in 0..10 {
            pieces.keep(&sight("a"), piece(from, from + 1, "x"));
        }
        assert!(pieces.find(5, &sight("a")).is_none() && pieces.find(6, &sight("a")).is_some());
        assert_eq!(pieces.0.lock().len(), KEPT);
    }
}
