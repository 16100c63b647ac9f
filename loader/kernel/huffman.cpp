#include "huffman.h"

namespace understudy {
namespace {

// Sizes of a coefficient of 8-bit samples: beyond them a stream is not baseline, and a step could outrun a refill.
constexpr unsigned kMaxDcSize = 11;
constexpr unsigned kMaxAcSize = 10;

bool build_codes(const HuffmanSpec& spec, bool dc, Codes& codes) {
  codes.dc = dc;
  uint32_t code = 0;
  unsigned first = 0;
  for (unsigned length = 1; length <= 16; length++) {
    const unsigned count = spec.counts[length - 1];
    codes.offset[length] = static_cast<int32_t>(first) - static_cast<int32_t>(code);
    code += count;
    first += count;
    // The code of all ones is not allowed, as in libjpeg.
    if (first > 256 || (count && code >= (1u << length))) return false;
    codes.end[length] = code << (16 - length);
    code <<= 1;
  }
  for (unsigned i = 0; i < first; i++) {
    const unsigned symbol = spec.symbols[i];
    if (dc ? symbol > kMaxDcSize : (symbol & 15) > kMaxAcSize) return false;
    codes.symbols[i] = static_cast<uint8_t>(symbol);
  }
  return true;
}

// A symbol and the length of its code; length 0 where the 16 `bits` start with no code.
struct Found {
  unsigned length, symbol;
};

Found find(const Codes& codes, uint32_t bits) {
  for (unsigned length = 1; length <= 16; length++) {
    if (bits < codes.end[length]) {
      return {length, codes.symbols[static_cast<int32_t>(bits >> (16 - length)) + codes.offset[length]]};
    }
  }
  return {0, 0};
}

// A run of zeros and a coefficient, or the end of a block, as its code tells them; length 0 where there is none.
struct Token {
  unsigned length;   // of the code
  unsigned size;     // of the value that follows
  unsigned advance;  // in zigzag order
};

Token read_token(const Codes& codes, uint32_t bits) {
  const Found found = find(codes, bits);
  if (found.length == 0) return {0, 0, 0};
  if (codes.dc) return {found.length, found.symbol, 1};
  const unsigned run = found.symbol >> 4, size = found.symbol & 15;
  if (size == 0 && run != 15) return {found.length, 0, kEndOfBlock};
  return {found.length, size, run + 1};
}

Step make_step(unsigned before, unsigned first_advance, unsigned first_value, const Token& last) {
  const unsigned lead = before + last.length, whole = first_advance + last.advance;
  return Step{lead + last.size} | Step{first_advance ? first_advance : whole} << 8 | Step{whole} << 16 |
         Step{lead} << 24 | Step{63 - last.size} << 32 | Step{first_value & 0xffff} << 48;
}

// A value of `size` bits; those below zero are stored less one, which leaves their first bit 0.
int extend(unsigned bits, unsigned size) {
  const int value = static_cast<int>(bits);
  return size && !(bits >> (size - 1)) ? value - (1 << size) + 1 : value;
}

Step table_step(const Codes& codes, const Codes& next, uint32_t index) {
  const uint32_t bits = index << (16 - kLookupBits);
  const Token first = read_token(codes, bits);
  if (first.length == 0 || first.length > kLookupBits) return kLongCode;
  const unsigned used = first.length + first.size;
  if (first.advance != kEndOfBlock && used < kLookupBits) {
    const Token second = read_token(next, bits << used & 0xffff);
    if (second.length != 0 && used + second.length <= kLookupBits) {
      const unsigned raw = bits >> (16 - used) & ((1u << first.size) - 1);
      return make_step(used, first.advance, static_cast<unsigned>(extend(raw, first.size)), second);
    }
  }
  return make_step(0, 0, 0, first);
}

}  // namespace

Step Codes::read(uint64_t bits) const {
  const Token token = read_token(*this, static_cast<uint32_t>(bits >> 48));
  return make_step(0, 0, 0, token.length ? token : Token{0, 0, kCorrupt});
}

bool BlockTables::build(const HuffmanSpec& dc_spec, const HuffmanSpec& ac_spec) {
  if (!build_codes(dc_spec, true, dc_codes) || !build_codes(ac_spec, false, ac_codes)) return false;
  for (uint32_t i = 0; i < (1u << kLookupBits); i++) {
    dc[i] = table_step(dc_codes, ac_codes, i);
    ac[i] = table_step(ac_codes, ac_codes, i);
  }
  return true;
}

}  // namespace understudy
