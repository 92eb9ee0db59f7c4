//! Compressing a payload, and decompressing it within bounds.
//!
//! Not here: which batches are compressed (`log`), and what a batch says of it (`batch`).
//!
//! | code | codec | payload |
//! | --- | --- | --- |
//! | 0 | none | the records |
//! | 1 | lz4 | one LZ4 block of them, without a frame or a size before it |
//! | 2 | zstd | one Zstandard frame of them that tells its content size; no dictionary, no checksum |
//!
//! The batch's `uncompressed_bytes` is exactly what comes out. Before anything is allocated it is
//! compared with the limit of a payload, with what so many bytes can become at most (lz4: 255 times
//! as many; zstd: 128 KiB for each 4), and, zstd, with the frame's own size.
//!
//! Damage    the batch's checksum finds it first. What does not decompress to `uncompressed_bytes`
//!           bytes in spite of a good one (a bug, or a forgery) is damage as well; memory is
//!           written within those bytes only.
//!
//! The features `lz4` and `zstd` add the codecs. Without one its batches keep their place: they are
//! known, checked against their checksum, and counted, but their records cannot be read.

use crate::config::Compression;

/// How a payload is compressed. Never renumber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Codec {
    None = 0,
    Lz4 = 1,
    Zstd = 2,
}

/// Zstandard's own default: from here on each level costs more than it saves of a log's records.
#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;
/// The largest block of a Zstandard frame, and the least bytes that one which is not empty takes.
const ZSTD_BLOCK_BYTES: u64 = 128 << 10;
const ZSTD_BLOCK_LEAST: u64 = 4;
/// What a byte of an LZ4 block stands for at most: one that lengthens a match.
const LZ4_RATIO_MAX: u64 = 255;

/// This build lacks a codec.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotBuilt {
    /// The feature that adds it.
    pub(crate) feature: &'static str,
}

/// Why a payload was not decompressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CodecError {
    NotBuilt(NotBuilt),
    /// It is not what a codec wrote for a batch that says this.
    Damaged,
    /// There was no memory to work in.
    #[cfg_attr(not(feature = "zstd"), expect(dead_code, reason = "lz4 needs none"))]
    OutOfMemory,
}

impl Codec {
    /// What it is called, in words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The feature that it needs and this build lacks.
    pub(crate) const fn missing_feature(self) -> Option<&'static str> {
        match self {
            Codec::None => None,
            Codec::Lz4 => Compression::Lz4.missing_feature(),
            Codec::Zstd => Compression::Zstd.missing_feature(),
        }
    }

    /// How many bytes a payload of so many can stand for.
    pub(super) const fn output_max(self, payload_bytes: u32) -> u64 {
        let payload_bytes = payload_bytes as u64;
        match self {
            Codec::None => payload_bytes,
            Codec::Lz4 => payload_bytes * LZ4_RATIO_MAX,
            Codec::Zstd => payload_bytes / ZSTD_BLOCK_LEAST * ZSTD_BLOCK_BYTES,
        }
    }

    /// Whether a payload may stand for so many bytes, as far as can be told without decompressing
    /// it: to be asked before room is made for them.
    pub(super) fn check_claim(self, payload: &[u8], bytes: u32) -> Result<(), CodecError> {
        if let Some(feature) = self.missing_feature() {
            return Err(CodecError::NotBuilt(NotBuilt { feature }));
        }
        let payload_bytes = u32::try_from(payload.len()).map_err(|_| CodecError::Damaged)?;
        if u64::from(bytes) > self.output_max(payload_bytes) {
            return Err(CodecError::Damaged);
        }
        #[cfg(feature = "zstd")]
        if self == Codec::Zstd {
            let told = zstd::zstd_safe::get_frame_content_size(payload);
            if told.ok().flatten() != Some(u64::from(bytes)) {
                return Err(CodecError::Damaged);
            }
        }
        Ok(())
    }
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Codec::None,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => Codec::Zstd,
        }
    }
}

/// Compresses `bytes`; `None` unless what comes out is shorter than `below`.
pub(super) fn compress(
    codec: Codec,
    bytes: &[u8],
    below: usize,
) -> Result<Option<Vec<u8>>, NotBuilt> {
    match codec {
        Codec::None => Ok(None),
        Codec::Lz4 => compress_lz4(bytes, below),
        Codec::Zstd => compress_zstd(bytes, below),
    }
}

#[cfg(feature = "lz4")]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as without the feature")]
fn compress_lz4(bytes: &[u8], below: usize) -> Result<Option<Vec<u8>>, NotBuilt> {
    let mut out = vec![0; lz4_flex::block::get_maximum_output_size(bytes.len())];
    let length = lz4_flex::block::compress_into(bytes, &mut out).unwrap_or(usize::MAX);
    if length >= below {
        return Ok(None);
    }
    out.truncate(length);
    Ok(Some(out))
}

#[cfg(not(feature = "lz4"))]
fn compress_lz4(_: &[u8], _: usize) -> Result<Option<Vec<u8>>, NotBuilt> {
    Err(NotBuilt { feature: "lz4" })
}

#[cfg(feature = "zstd")]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as without the feature")]
fn compress_zstd(bytes: &[u8], below: usize) -> Result<Option<Vec<u8>>, NotBuilt> {
    // Without the memory to work in, the batch is stored as it is.
    let Ok(mut compressor) = zstd::bulk::Compressor::new(ZSTD_LEVEL) else { return Ok(None) };
    // It fails where that is too little, and then nothing is gained.
    let mut out = Vec::with_capacity(below);
    let length = compressor.compress_to_buffer(bytes, &mut out).unwrap_or(usize::MAX);
    Ok((length < below).then_some(out))
}

#[cfg(not(feature = "zstd"))]
fn compress_zstd(_: &[u8], _: usize) -> Result<Option<Vec<u8>>, NotBuilt> {
    Err(NotBuilt { feature: "zstd" })
}

/// Decompresses one payload after the other, with what they need to work in.
#[derive(Default)]
pub(crate) struct Decompressor {
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decompressor {
    /// Decompresses a payload that [`Codec::check_claim`] let through; it has to fill `out`.
    pub(super) fn run(
        &mut self,
        codec: Codec,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        let length = match codec {
            Codec::None => return Err(CodecError::Damaged),
            Codec::Lz4 => decompress_lz4(payload, out)?,
            Codec::Zstd => self.decompress_zstd(payload, out)?,
        };
        if length == out.len() { Ok(()) } else { Err(CodecError::Damaged) }
    }

    #[cfg(feature = "zstd")]
    fn decompress_zstd(&mut self, payload: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => {
                let made = zstd::bulk::Decompressor::new();
                none.insert(made.map_err(|_| CodecError::OutOfMemory)?)
            }
        };
        zstd.decompress_to_buffer(payload, out).map_err(|_| CodecError::Damaged)
    }

    #[cfg(not(feature = "zstd"))]
    #[expect(clippy::unused_self, reason = "with the feature it has something to keep")]
    fn decompress_zstd(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, CodecError> {
        Err(CodecError::NotBuilt(NotBuilt { feature: "zstd" }))
    }
}

#[cfg(feature = "lz4")]
fn decompress_lz4(payload: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
    lz4_flex::block::decompress_into(payload, out).map_err(|_| CodecError::Damaged)
}

#[cfg(not(feature = "lz4"))]
fn decompress_lz4(_: &[u8], _: &mut [u8]) -> Result<usize, CodecError> {
    Err(CodecError::NotBuilt(NotBuilt { feature: "lz4" }))
}
