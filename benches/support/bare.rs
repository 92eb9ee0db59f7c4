//! What the limits are made of: batches as the format has them, fresh segments, and nothing else.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crc32fast::Hasher;
use memmap2::{Mmap, MmapMut, MmapOptions};

pub const SEGMENT_BYTES: usize = 64 << 20;
/// Pages are made present this far ahead: whoever populates a whole segment at once finds its
/// first pages gone from the cache when it stores to them.
const POPULATE_BYTES: usize = 4 << 20;
/// As the format has it: a batch's header, and what comes before a record's value.
pub const HEADER_BYTES: usize = 120;
pub const PREFIX_BYTES: usize = 32;
const MAGIC: u32 = u32::from_le_bytes(*b"PB\xa7\xc1");
/// Any seed will do where nobody reads the batches.
const SEED: u32 = 0x204f_7519;

/// The size of a batch of so many records of so many bytes.
pub fn batch_bytes(records: u32, value_bytes: usize) -> usize {
    HEADER_BYTES + records as usize * record_bytes(value_bytes)
}

fn record_bytes(value_bytes: usize) -> usize {
    PREFIX_BYTES + value_bytes.next_multiple_of(8)
}

/// The checksum of `bytes` as a partition's.
#[inline]
pub fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

#[inline]
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().cast_signed() * 1000 + i64::from(now.subsec_millis())
}

/// Frames and checksums a batch over all of `out`: one clock reading, one copy of each value.
#[inline]
pub fn frame(out: &mut [u8], base: u64, records: u32, value: &[u8]) {
    let now = now_ms();
    let (header, payload) = out.split_first_chunk_mut::<HEADER_BYTES>().expect("room for it");
    let bytes = record_bytes(value.len());
    let mut rest = &mut payload[..];
    for delta in 0..records {
        let (record, behind) = rest.split_at_mut(bytes);
        rest = behind;
        record[bytes - 8..].fill(0);
        let (prefix, body) = record.split_first_chunk_mut::<PREFIX_BYTES>().expect("room for it");
        body[..value.len()].copy_from_slice(value);
        put(prefix, 0, u64::from(delta) << 32);
        put(prefix, 8, 0);
        put(prefix, 16, value.len() as u64);
        put(prefix, 24, 0);
    }
    let payload_bytes = payload.len() as u64;
    put(header, 8, payload_bytes | payload_bytes << 32);
    put(header, 16, 0);
    put(header, 24, base);
    put(header, 32, u64::from(records - 1) | u64::from(records) << 32);
    for field in [40, 48, 56] {
        put(header, field, now.cast_unsigned());
    }
    put(header, 64, base);
    put(header, 72, 0);
    put(header, 80, u64::MAX);
    put(header, 88, 0);
    put(header, 96, 0);
    put(header, 104, 0);
    // Last, so that the other fields have left the store buffer when the header's checksum reads
    // them.
    put(header, 112, u64::from(crc(SEED, payload)) << 32);
    let crc = crc(SEED, &header[8..]);
    put(header, 0, u64::from(MAGIC) | u64::from(crc) << 32);
}

#[inline]
fn put<const N: usize>(out: &mut [u8; N], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Files that a limit makes, removed when it is dropped, outside of what is timed.
#[derive(Debug)]
pub struct Segments {
    path: PathBuf,
    made: u32,
}

impl Segments {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), made: 0 }
    }

    /// A new file, allocated.
    pub fn file(&mut self) -> File {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path.with_extension(self.made.to_string()))
            .expect("a file");
        self.made += 1;
        fs2::FileExt::allocate(&file, SEGMENT_BYTES as u64).expect("allocated");
        file
    }

    /// A new file, allocated and mapped.
    fn map(&mut self) -> MmapMut {
        let file = self.file();
        // SAFETY: `map_mut` needs that nobody else changes the file: it was made just now, in a
        // temporary folder, and only the limit that asked for it writes to it.
        #[expect(unsafe_code, reason = "the limit maps a file as the library does")]
        let map = unsafe { MmapOptions::new().len(SEGMENT_BYTES).map_mut(&file) }.expect("mapped");
        // Without large pages the limit is lower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        for number in 0..self.made {
            std::fs::remove_file(self.path.with_extension(number.to_string())).expect("removed");
        }
    }
}

/// Makes the pages up to `needed` present, and some more. Returns up to where they are.
fn populate(map: &MmapMut, populated: usize, needed: usize) -> usize {
    let end = needed.max(populated + POPULATE_BYTES).min(SEGMENT_BYTES);
    #[cfg(target_os = "linux")]
    map.advise_range(memmap2::Advice::PopulateWrite, populated, end - populated)
        .expect("populated");
    end
}

/// Frames, checksums and stores `batches` by mapping.
pub fn store_mapped(dir: &Path, batches: u64, records: u32, value: &[u8]) -> Duration {
    let bytes = batch_bytes(records, value.len());
    let mut segments = Segments::new(&dir.join("mapped"));
    // Unmapped outside of what is timed.
    let mut maps = Vec::with_capacity(64);
    let begun = Instant::now();
    let mut base = 0;
    let mut left = batches;
    while left > 0 {
        maps.push(segments.map());
        let map = maps.last_mut().expect("just made");
        let (mut at, mut populated) = (0, 0);
        while left > 0 && at + bytes <= SEGMENT_BYTES {
            if at + bytes > populated {
                populated = populate(map, populated, at + bytes);
            }
            frame(&mut map[at..at + bytes], base, records, value);
            base += u64::from(records);
            at += bytes;
            left -= 1;
        }
    }
    begun.elapsed()
}

/// Frames, checksums and stores `batches` by `pwrite`.
pub fn store_written(dir: &Path, batches: u64, records: u32, value: &[u8]) -> Duration {
    let bytes = batch_bytes(records, value.len());
    let mut batch = vec![0; bytes];
    let mut base = 0;
    write(dir, batches, bytes, |file, at| {
        frame(&mut batch, base, records, value);
        base += u64::from(records);
        file.write_all_at(&batch, at).expect("written");
    })
}

/// One `pwrite` of each value, and nothing else.
pub fn write_only(dir: &Path, records: u64, value: &[u8]) -> Duration {
    write(dir, records, value.len(), |file, at| file.write_all_at(value, at).expect("written"))
}

fn write(dir: &Path, count: u64, bytes: usize, mut store: impl FnMut(&File, u64)) -> Duration {
    let mut segments = Segments::new(&dir.join("written"));
    let begun = Instant::now();
    let mut left = count;
    while left > 0 {
        let file = segments.file();
        let mut at = 0;
        while left > 0 && at + bytes <= SEGMENT_BYTES {
            store(&file, at as u64);
            at += bytes;
            left -= 1;
        }
    }
    begun.elapsed()
}

/// The sum of all bytes: eight at a time, so that a summing pass is bound by memory.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    /// How many words fit into lanes of 16 bits: each adds at most 2 * 255 to one.
    const WORDS: usize = 128;
    let mut total = 0;
    for block in bytes.chunks(8 * WORDS) {
        let (words, rest) = block.as_chunks::<8>();
        let mut lanes = 0;
        for word in words {
            let word = u64::from_le_bytes(*word);
            lanes += (word & EVEN) + ((word >> 8) & EVEN);
        }
        total += [0, 16, 32, 48].map(|lane| (lanes >> lane) & 0xffff).iter().sum::<u64>();
        total += rest.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    }
    total
}

/// A segment file of the library's, mapped to be read, and its pages present.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    /// What its checksums begin with.
    seed: u32,
}

impl Mapped {
    fn new(path: &Path) -> Self {
        let file = File::open(path).expect("a segment");
        // SAFETY: `map` needs that nobody changes the file: it is in a temporary folder, and the
        // store that it belongs to is appended to no more.
        #[expect(unsafe_code, reason = "the limit maps a file as the library does")]
        let map = unsafe { Mmap::map(&file) }.expect("mapped");
        #[cfg(target_os = "linux")]
        map.advise(memmap2::Advice::PopulateRead).expect("populated");
        // Topic, salt and partition, as its header page has them.
        let identity = [&map[24..32], &map[20..24], &map[32..36]].concat();
        Self { map, seed: crc32fast::hash(&identity) }
    }

    /// Header and payload of each batch.
    fn batches(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // The position of the first one, behind what a file begins with.
        let first = word(&self.map, 64) as usize;
        let mut rest = &self.map[first..];
        std::iter::from_fn(move || {
            let (header, behind) = rest.split_at_checked(HEADER_BYTES)?;
            if word(header, 0) != MAGIC {
                return None;
            }
            let (payload, behind) = behind.split_at((word(header, 8) as usize).next_multiple_of(8));
            rest = behind;
            Some((header, payload))
        })
    }

    /// How many records there are.
    fn records(&self) -> u64 {
        self.batches().map(|(header, _)| u64::from(word(header, 36))).sum()
    }

    /// One pass that sums every payload byte.
    pub fn sum(&self) -> u64 {
        self.batches().map(|(_, payload)| sum(payload)).sum()
    }

    /// One pass that checks the checksums of a batch and then sums it.
    pub fn check_and_sum(&self) -> u64 {
        self.batches()
            .map(|(header, payload)| {
                self.check(header, payload);
                sum(payload)
            })
            .sum()
    }

    #[inline]
    fn check(&self, header: &[u8], payload: &[u8]) {
        assert_eq!(crc(self.seed, &header[8..]), word(header, 4), "the header's checksum");
        assert_eq!(crc(self.seed, payload), word(header, 116), "the payload's checksum");
    }

    /// Checks the checksums of batches, and hands them out as they lie behind each other, at least
    /// `bytes` at a time but for the last ones.
    fn check_runs(&self, bytes: usize, mut run: impl FnMut(&[u8])) {
        let first = word(&self.map, 64) as usize;
        let (mut from, mut upto) = (first, first);
        for (header, payload) in self.batches() {
            self.check(header, payload);
            upto += header.len() + payload.len();
            if upto - from >= bytes {
                run(&self.map[from..upto]);
                from = upto;
            }
        }
        if upto > from {
            run(&self.map[from..upto]);
        }
    }
}

/// Checks every batch and copies it into fresh segments by mapping.
pub fn copy_mapped(dir: &Path, maps: &[Mapped]) -> Duration {
    let mut segments = Segments::new(&dir.join("mapped"));
    let mut copies = Vec::with_capacity(maps.len());
    let begun = Instant::now();
    for from in maps {
        copies.push(segments.map());
        let to = copies.last_mut().expect("just made");
        let (mut at, mut populated) = (0, 0);
        from.check_runs(1, |run| {
            if at + run.len() > populated {
                populated = populate(to, populated, at + run.len());
            }
            to[at..at + run.len()].copy_from_slice(run);
            at += run.len();
        });
    }
    begun.elapsed()
}

/// Checks every batch and copies it into fresh segments by `pwrite`, of about 1 MiB at a time.
pub fn copy_written(dir: &Path, maps: &[Mapped]) -> Duration {
    let mut segments = Segments::new(&dir.join("written"));
    let begun = Instant::now();
    for from in maps {
        let (to, mut at) = (segments.file(), 0);
        from.check_runs(1 << 20, |run| {
            to.write_all_at(run, at).expect("written");
            at += run.len() as u64;
        });
    }
    begun.elapsed()
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"))
}

/// The segment files below a folder, but those of the metadata, in the order of their names.
pub fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "metadata") {
                found.extend(segment_files(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The segment files of a store, mapped.
///
/// # Panics
/// If they do not hold so many records: then the limit would not read what the library does.
pub fn map_store(dir: &Path, records: u64) -> Vec<Mapped> {
    let maps: Vec<_> = segment_files(dir).iter().map(|path| Mapped::new(path)).collect();
    assert_eq!(maps.iter().map(Mapped::records).sum::<u64>(), records, "records in {dir:?}");
    maps
}
