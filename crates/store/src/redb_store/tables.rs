//! The tables of the file and the bytes in them; see the parent module for the format.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use super::FORMAT;
use crate::mvcc::{Edit, Head, Marks, Pos, Record, View, Visit};
use crate::{EventKind, StoreError};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const RECORDS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("records");
const HEADS: TableDefinition<&[u8], (u64, u32, bool)> = TableDefinition::new("heads");
const LEASES: TableDefinition<(u64, &[u8]), ()> = TableDefinition::new("leases");

/// Bytes before the key in a record.
const HEADER: usize = 1 + 8 * 3 + 4 + 8 + 4;

/// Says what was being done when redb refused.
pub(super) fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Backend { doing, source: Arc::new(error.into()) }
}

const READING: &str = "reading the store failed";
const WRITING: &str = "writing the store failed";

/// The four tables, open for reading or for writing.
pub(super) struct Tables<R, H, L> {
    marks: Marks,
    records: R,
    heads: H,
    leases: L,
}

type ReadTables =
    Tables<redb::ReadOnlyTable<(u64, u32), &'static [u8]>, redb::ReadOnlyTable<&'static [u8], (u64, u32, bool)>, ()>;
pub(super) type WriteTables<'t> = Tables<
    Table<'t, (u64, u32), &'static [u8]>,
    Table<'t, &'static [u8], (u64, u32, bool)>,
    Table<'t, (u64, &'static [u8]), ()>,
>;

/// Makes the tables of a new file, or checks that the file is one of ours in a format that is known. Gives the marks
/// and when the first lease ends.
pub(super) fn prepare(db: &Database) -> Result<(Marks, Option<u64>), StoreError> {
    let txn = db.begin_write().map_err(failed(WRITING))?;
    let fresh = txn.list_tables().map_err(failed(READING))?.next().is_none();
    {
        let mut meta = txn.open_table(META).map_err(failed(READING))?;
        let found = meta.get("format").map_err(failed(READING))?.map(|v| v.value());
        match found {
            None if fresh => {
                meta.insert("format", FORMAT).map_err(failed(WRITING))?;
            }
            Some(FORMAT) => {}
            other => {
                return Err(StoreError::UnknownFormat { found: other.unwrap_or(0), supported: FORMAT });
            }
        }
    }
    let tables = open(&txn)?;
    let found = (tables.marks, tables.first_lease()?.map(|(ms, _)| ms));
    drop(tables);
    if fresh {
        txn.commit().map_err(failed(WRITING))?;
    } else {
        txn.abort().map_err(failed(WRITING))?;
    }
    Ok(found)
}

/// Opens the tables for writing.
pub(super) fn open(txn: &WriteTransaction) -> Result<WriteTables<'_>, StoreError> {
    let marks = read_marks(&txn.open_table(META).map_err(failed(READING))?)?;
    Ok(Tables {
        marks,
        records: txn.open_table(RECORDS).map_err(failed(READING))?,
        heads: txn.open_table(HEADS).map_err(failed(READING))?,
        leases: txn.open_table(LEASES).map_err(failed(READING))?,
    })
}

/// Writes the marks that were set, as the last change of a transaction.
pub(super) fn save_marks(txn: &WriteTransaction, marks: Marks) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META).map_err(failed(WRITING))?;
    for (name, value) in [("revision", marks.revision), ("compacted", marks.compacted), ("cleaned", marks.cleaned)] {
        meta.insert(name, value).map_err(failed(WRITING))?;
    }
    Ok(())
}

/// Reads from a snapshot of the newest durable state.
pub(super) fn read<T>(db: &Database, f: impl FnOnce(&dyn View) -> Result<T, StoreError>) -> Result<T, StoreError> {
    let txn = db.begin_read().map_err(failed(READING))?;
    let tables: ReadTables = Tables {
        marks: read_marks(&txn.open_table(META).map_err(failed(READING))?)?,
        records: txn.open_table(RECORDS).map_err(failed(READING))?,
        heads: txn.open_table(HEADS).map_err(failed(READING))?,
        leases: (),
    };
    f(&tables)
}

fn read_marks(meta: &impl ReadableTable<&'static str, u64>) -> Result<Marks, StoreError> {
    let get = |name: &str| -> Result<u64, StoreError> {
        Ok(meta.get(name).map_err(failed(READING))?.map_or(0, |v| v.value()))
    };
    Ok(Marks { revision: get("revision")?, compacted: get("compacted")?, cleaned: get("cleaned")? })
}

fn encode(record: &Record) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + record.key.len() + record.value.len());
    out.put_u8(match record.kind {
        EventKind::Put => 1,
        EventKind::Delete => 2,
    });
    out.put_u64_le(record.create_revision);
    out.put_u64_le(record.version);
    out.put_u64_le(record.previous.map_or(0, |pos| pos.revision));
    out.put_u32_le(record.previous.map_or(0, |pos| pos.index));
    out.put_u64_le(record.expires_ms);
    let key_len = u32::try_from(record.key.len()).expect("keys are checked to be short");
    out.put_u32_le(key_len);
    out.put_slice(&record.key);
    out.put_slice(&record.value);
    out.freeze()
}

fn decode(revision: u64, bytes: &[u8]) -> Result<Record, StoreError> {
    use bytes::Buf;
    let corrupt = || StoreError::Corrupt { what: "a record that cannot be read", revision };
    if bytes.len() < HEADER {
        return Err(corrupt());
    }
    let mut header = &bytes[..HEADER];
    let kind = match header.get_u8() {
        1 => EventKind::Put,
        2 => EventKind::Delete,
        _ => return Err(corrupt()),
    };
    let (create_revision, version) = (header.get_u64_le(), header.get_u64_le());
    let (previous, index) = (header.get_u64_le(), header.get_u32_le());
    let expires_ms = header.get_u64_le();
    let key_len = header.get_u32_le() as usize;
    let rest = Bytes::copy_from_slice(&bytes[HEADER..]);
    if key_len > rest.len() {
        return Err(corrupt());
    }
    Ok(Record {
        kind,
        create_revision,
        version,
        previous: (previous != 0).then_some(Pos { revision: previous, index }),
        expires_ms,
        key: rest.slice(..key_len),
        value: rest.slice(key_len..),
    })
}

fn to_head((revision, index, live): (u64, u32, bool)) -> Head {
    Head { pos: Pos { revision, index }, live }
}

impl<R, H, L> View for Tables<R, H, L>
where
    R: ReadableTable<(u64, u32), &'static [u8]>,
    H: ReadableTable<&'static [u8], (u64, u32, bool)>,
{
    fn marks(&self) -> Marks {
        self.marks
    }

    fn head(&self, key: &[u8]) -> Result<Option<Head>, StoreError> {
        Ok(self.heads.get(key).map_err(failed(READING))?.map(|v| to_head(v.value())))
    }

    fn record(&self, pos: Pos) -> Result<Option<Record>, StoreError> {
        let found = self.records.get((pos.revision, pos.index)).map_err(failed(READING))?;
        found.map(|v| decode(pos.revision, v.value())).transpose()
    }

    fn heads(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_, (Bytes, Head)>) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        for row in self.heads.range(start..end).map_err(failed(READING))? {
            let (key, head) = row.map_err(failed(READING))?;
            if let ControlFlow::Break(()) = visit((Bytes::copy_from_slice(key.value()), to_head(head.value())))? {
                break;
            }
        }
        Ok(())
    }

    fn records(&self, from: u64, visit: &mut Visit<'_, (Pos, Record)>) -> Result<(), StoreError> {
        for row in self.records.range((from, 0)..).map_err(failed(READING))? {
            let (pos, record) = row.map_err(failed(READING))?;
            let (revision, index) = pos.value();
            let record = decode(revision, record.value())?;
            if let ControlFlow::Break(()) = visit((Pos { revision, index }, record))? {
                break;
            }
        }
        Ok(())
    }
}

impl Edit for WriteTables<'_> {
    fn set_marks(&mut self, marks: Marks) {
        self.marks = marks;
    }

    fn set_head(&mut self, key: &[u8], head: Option<Head>) -> Result<(), StoreError> {
        match head {
            Some(Head { pos, live }) => self.heads.insert(key, (pos.revision, pos.index, live)).map(|_| ()),
            None => self.heads.remove(key).map(|_| ()),
        }
        .map_err(failed(WRITING))
    }

    fn add_record(&mut self, pos: Pos, record: &Record) -> Result<(), StoreError> {
        let bytes = encode(record);
        self.records.insert((pos.revision, pos.index), &*bytes).map(|_| ()).map_err(failed(WRITING))
    }

    fn remove_record(&mut self, pos: Pos) -> Result<(), StoreError> {
        self.records.remove((pos.revision, pos.index)).map(|_| ()).map_err(failed(WRITING))
    }

    fn add_lease(&mut self, expires_ms: u64, key: &[u8]) -> Result<(), StoreError> {
        self.leases.insert((expires_ms, key), ()).map(|_| ()).map_err(failed(WRITING))
    }

    fn remove_lease(&mut self, expires_ms: u64, key: &[u8]) -> Result<(), StoreError> {
        self.leases.remove((expires_ms, key)).map(|_| ()).map_err(failed(WRITING))
    }

    fn first_lease(&self) -> Result<Option<(u64, Bytes)>, StoreError> {
        let first = self.leases.first().map_err(failed(READING))?;
        Ok(first.map(|(key, _)| {
            let (ms, key) = key.value();
            (ms, Bytes::copy_from_slice(key))
        }))
    }
}

/// How many rows the tables have, for tests and `doctor`.
pub(super) fn rows(db: &Database) -> Result<(u64, u64), StoreError> {
    let txn = db.begin_read().map_err(failed(READING))?;
    let records = txn.open_table(RECORDS).map_err(failed(READING))?.len().map_err(failed(READING))?;
    let heads = txn.open_table(HEADS).map_err(failed(READING))?.len().map_err(failed(READING))?;
    Ok((records, heads))
}
