//! Pictures and sounds that the stand-in answers with, made from the prompt.
//!
//! Pure. Small, and valid for any program that opens them; other prompts get other ones.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Samples a second, those of the API's speech.
const RATE: u32 = 24_000;
const SAMPLES: usize = 8;

/// Returns one pixel as the data of a part.
pub(super) fn image(prompt: &str) -> Value {
    inline_data("image/png", &png(color(prompt)))
}

/// Returns a few samples in a WAV file as the data of a part.
pub(super) fn sound(prompt: &str) -> Value {
    inline_data("audio/wav", &wav(&samples(prompt)))
}

/// Returns a few bare samples, which is how the API sends speech.
pub(super) fn speech(prompt: &str) -> Value {
    inline_data(&format!("audio/L16;codec=pcm;rate={RATE}"), &samples(prompt))
}

fn inline_data(mime_type: &str, bytes: &[u8]) -> Value {
    json!({"mimeType": mime_type, "data": STANDARD.encode(bytes)})
}

fn color(prompt: &str) -> [u8; 3] {
    let hash = Sha256::digest(prompt);
    [hash[0], hash[1], hash[2]]
}

fn samples(prompt: &str) -> Vec<u8> {
    let hash = Sha256::digest(prompt);
    hash[..2 * SAMPLES].to_vec()
}

fn png(color: [u8; 3]) -> Vec<u8> {
    // 1 × 1, 8 bits for each of red, green and blue.
    let header = [0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0];
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory can't fail; each line begins with its filter, here none.
    let _ = pixels.write_all(&[0]).and_then(|()| pixels.write_all(&color));
    let pixels = pixels.finish().unwrap_or_default();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, data) in [(b"IHDR", &header[..]), (b"IDAT", &pixels), (b"IEND", &[])] {
        let mut sum = Crc::new();
        sum.update(name);
        sum.update(data);
        file.extend(length(data).to_be_bytes());
        file.extend(name);
        file.extend(data);
        file.extend(sum.sum().to_be_bytes());
    }
    file
}

fn wav(samples: &[u8]) -> Vec<u8> {
    let mut file = b"RIFF".to_vec();
    file.extend((36 + length(samples)).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0");
    // Uncompressed, one channel.
    file.extend([1, 0, 1, 0]);
    file.extend(RATE.to_le_bytes());
    file.extend((2 * RATE).to_le_bytes());
    // Bytes for a sample of all channels, bits for one.
    file.extend([2, 0, 16, 0]);
    file.extend(b"data");
    file.extend(length(samples).to_le_bytes());
    file.extend(samples);
    file
}

fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn number(bytes: &[u8]) -> u32 {
        u32::from_be_bytes(bytes.try_into().unwrap())
    }

    #[test]
    fn a_picture_is_a_valid_png() {
        let file = png([1, 2, 3]);
        let mut rest = file.strip_prefix(b"\x89PNG\r\n\x1a\n").unwrap();
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let length = number(&rest[..4]) as usize;
            let (data, sum) = (&rest[4..8 + length], number(&rest[8 + length..12 + length]));
            let mut real = Crc::new();
            real.update(data);
            assert_eq!(real.sum(), sum);
            chunks.push((&data[..4], &data[4..]));
            rest = &rest[12 + length..];
        }
        let names: Vec<&[u8]> = chunks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [b"IHDR", b"IDAT", b"IEND"]);
        let mut line = Vec::new();
        flate2::read::ZlibDecoder::new(chunks[1].1).read_to_end(&mut line).unwrap();
        assert_eq!(line, [0, 1, 2, 3]);
    }

    #[test]
    fn a_sound_is_a_valid_wav() {
        let samples = samples("a");
        let file = wav(&samples);
        let at = |place: usize| u32::from_le_bytes(file[place..place + 4].try_into().unwrap());
        assert_eq!((&file[..4], &file[8..16]), (&b"RIFF"[..], &b"WAVEfmt "[..]));
        assert_eq!(at(4) as usize, file.len() - 8);
        assert_eq!((at(24), at(28)), (24_000, 48_000));
        assert_eq!((&file[36..40], at(40) as usize), (&b"data"[..], samples.len()));
        assert_eq!(&file[44..], samples);
    }

    #[test]
    fn another_prompt_gets_another_one() {
        assert_eq!(image("a"), image("a"));
        assert_ne!(image("a"), image("b"));
        assert_ne!(sound("a"), sound("b"));
    }
}
