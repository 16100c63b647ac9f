// Huffman tables of a JPEG scan, in the form that decodes fastest: one look-up of the next bits gives up to two
// coefficients. Reading the bit stream with them is in entropy.h.
#pragma once

#include <cstdint>
#include <cstring>

namespace understudy {

// What a DHT segment says: how many codes there are of each length from 1 to 16, and the symbols in their order.
struct HuffmanSpec {
  uint8_t counts[16] = {};
  uint8_t symbols[256] = {};

  bool operator==(const HuffmanSpec& other) const { return std::memcmp(this, &other, sizeof *this) == 0; }
};

// The places of a block's coefficients, row by row, in the order in which they are coded.
constexpr uint8_t kZigzag[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                  35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                  58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

constexpr int kLookupBits = 10;

// A step of the decoder, one or two coefficients, as one number:
//   bits  0-5   how many bits of the stream it takes
//   bits  8-15  how far it goes in zigzag order to the first coefficient
//   bits 16-23  and to the last, which is the same one unless there are two
//   bits 24-29  how many of its bits come before the last coefficient's value
//   bits 32-37  63 less the size of that value in bits
//   bits 48-63  the first coefficient
// To go on from position k in -1..62 by 128 is to end the block: no sum of other advances comes to 128 or more.
// Bit 6 of where a block ends is set if, and only if, the stream is corrupt.
using Step = uint64_t;

constexpr unsigned kEndOfBlock = 128;
constexpr unsigned kCorrupt = 65;
constexpr unsigned kCorruptBit = 64;

constexpr Step kLongCode = 0;  // the code is longer than the table's index

// Codes of one table in canonical order, for those that the look-up does not hold.
struct Codes {
  bool dc = false;
  uint32_t end[17] = {};    // by length: the first number, as 16 bits, that is beyond the codes of this length
  int32_t offset[17] = {};  // by length: index of a symbol less its code
  uint8_t symbols[256] = {};

  // The one coefficient that the next 64 `bits` of the stream start with.
  Step read(uint64_t bits) const;
};

// What decodes the blocks of one component.
struct BlockTables {
  Step dc[1 << kLookupBits];
  Step ac[1 << kLookupBits];
  Codes dc_codes, ac_codes;

  // False where a spec is not one of a baseline JPEG.
  bool build(const HuffmanSpec& dc_spec, const HuffmanSpec& ac_spec);
};

}  // namespace understudy
