// The inner loops, which exist once for each kind of processor and give the same bytes on all. What calls them is
// jpeg.cpp (entropy decoding and inverse DCT) and crop.cpp (resizing and colour).
#pragma once

#include <cstddef>
#include <cstdint>

#include "huffman.h"

namespace understudy {

// A JPEG scan without its byte stuffing, read from the highest bit. At least 8 bytes after its end can be read, and as
// many more as the blocks that are decoded before `consumed` is looked at may take.
struct BitReader {
  const uint8_t* next = nullptr;
  uint64_t bits = 0;   // what comes next, from the highest bit
  uint64_t count = 0;  // how many of them are valid

  // Bits read since `start`.
  int64_t consumed(const uint8_t* start) const { return (next - start) * 8 - static_cast<int64_t>(count); }
};

// A block of a scan: what it is coded with, and where its coefficients go, which must be 0 before. Coefficients of
// neighbouring blocks of a row of blocks lie in groups, as the inverse DCT reads them: row 0 of each block of the group,
// row 1 of each, and so on. A group holds Simd::group blocks of 64.
struct Block {
  const BlockTables* tables;
  int16_t* out;
};

// A scan and the blocks that come next in it; the `tables` of one block more than are decoded are read.
struct Scan {
  BitReader reader;
  const Block* blocks;
};

// How a row of samples becomes a row of `size` outputs: each is the sum of one or two pairs of samples times weights,
// which sum up to 128. Output o goes to slot simd.slot(o); the pair p of slot s is at p * pair_size + 2 * s in `places`
// and `weights`.
// If `windowed`, each group of Simd::lanes outputs has its samples in one window of the row, which starts at base[group],
// and `index` has their places in there.
struct Columns {
  int size, pairs;
  ptrdiff_t pair_size;
  bool windowed;
  const int32_t* places;
  const int8_t* weights;
  const int32_t* base;
  const uint8_t* index;
};

// Resized rows, and how far an output row lies from one towards the others, in units of 1/32768.
struct RowPair {
  const int16_t *top, *bottom;
  int16_t weight;
};
struct RowTriple {
  const int16_t *middle, *above, *below;
  int16_t above_weight, below_weight;
};

// Where a row of pixels goes.
struct Rgb {
  uint8_t *red, *green, *blue;
};

// Y'CbCr to RGB in units of 1/64, from planes in units of 1/128: see colour.h.
struct Colour {
  int16_t luma_offset, luma_gain, red_cr, green_cb, green_cr, blue_cb;
};

struct Simd {
  const char* name;
  int group;   // blocks in an inverse DCT: 1, 2 or 4
  int lanes;   // outputs in a group of Columns
  int window;  // bytes in the window of such a group

  // Where output o is in a resized row: some order, within each 64, that suits the variant.
  int (*slot)(int o);

  // Decodes the next `count` blocks of one scan, or of each of two. DC coefficients are as coded: differences from the
  // component's last. False where a stream is corrupt.
  bool (*decode_one)(Scan& scan, int count);
  bool (*decode_two)(Scan& first, Scan& second, int count);

  // Multiplies `blocks` blocks by `quant` (64 factors in natural order), transforms them as libjpeg's accurate integer
  // method does, bit for bit, into 8 rows of pixels at `out`, and sets the blocks to 0. Writes whole groups.
  void (*inverse_dct)(int16_t* blocks, int count, const uint16_t* quant, uint8_t* out, ptrdiff_t stride);

  // `out` has room for columns.size rounded up to 64, and gets values in units of 1/128.
  void (*resize_row)(const uint8_t* row, const Columns& columns, int16_t* out);

  // One row of `size` RGB pixels. The rows that are read have room for `size` rounded up to 64; cb and cr are of the same
  // weights.
  void (*blend_rows)(const RowPair& y, const RowTriple& cb, const RowTriple& cr, const Colour& colour, int size,
                     const Rgb& out);
};

extern const Simd kSimdAvx512, kSimdAvx2, kSimdNeon, kSimdScalar;

// The variants that this build and this processor have, the fastest first, and null after the last.
const Simd* const* simd_variants();

}  // namespace understudy
