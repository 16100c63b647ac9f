// Huffman decoding of blocks. Included by each simd_*.cpp, to be compiled for its instructions: shifts by a variable
// are what it spends its time on.
//
// Where a block ends can't be foreseen, and each wrong guess of the processor costs as much as several coefficients. So
// there is no branch on it, and as what is left is a long chain of operations that wait for each other, two scans are
// decoded side by side.
#pragma once

#include "simd.h"

namespace understudy {
namespace {

// Where the coefficient at each place in zigzag order goes in a group of blocks. Places beyond 63 are those at which a
// step ends a block: its value is 0, and so is what is at 63 then.
template <int kGroup>
struct Places {
  uint8_t at[256];

  constexpr Places() : at() {
    for (int k = 0; k < 256; k++) {
      const int natural = kZigzag[k < 64 ? k : 63];
      at[k] = static_cast<uint8_t>(natural / 8 * 8 * kGroup + natural % 8);
    }
  }
};

// A scan that is being decoded: its bit reader, and the block and place in it at which it is.
template <int kGroup>
class BlockDecoder {
 public:
  BlockDecoder(const Scan& scan, int count)
      : next_(scan.reader.next), bits_(scan.reader.bits), count_(scan.reader.count), block_(scan.blocks),
        end_(scan.blocks + count), lookup_(scan.blocks->tables->dc) {}

  bool done() const { return block_ == end_; }

  // Makes sure of 56 bits. Steps take up to 27 for a DC coefficient and 26 for another, so that they are enough for two.
  void refill() {
    uint64_t word;
    std::memcpy(&word, next_, 8);
    bits_ |= __builtin_bswap64(word) >> count_;
    next_ += (63 - count_) >> 3;
    count_ |= 56;
  }

  void step() {
    Step s = lookup_[bits_ >> (64 - kLookupBits)];
    // A block that is full ends without a code: what the table takes for the next coefficient is another block's.
    if (__builtin_expect(s == kLongCode || place_ + first_advance(s) == 63, 0)) s = read_one();
    const int64_t first = place_ + first_advance(s);
    const int64_t last = place_ + static_cast<int64_t>(s >> 16 & 255);
    // The last value's bits, from the highest; if the first of them is 0, it is the complement of what is below zero.
    const uint64_t value = bits_ << (s >> 24 & 63);
    const auto sign = static_cast<uint64_t>(static_cast<int64_t>(~value) >> 63);
    const uint64_t magnitude = (value ^ sign) >> 1 >> (s >> 32 & 63);
    bits_ <<= s & 63;
    count_ -= s & 63;
    int16_t* const out = block_->out;
    out[kPlaces.at[first]] = static_cast<int16_t>(s >> 48);
    out[kPlaces.at[last]] = static_cast<int16_t>((magnitude ^ sign) - sign);

    // All ones at the end of the block.
    const int64_t ended = (62 - last) >> 63;
    ends_ |= last;
    place_ = last | ended;
    const char* const ac = reinterpret_cast<const char*>(block_->tables->ac);
    const char* const next_dc = reinterpret_cast<const char*>(block_[1].tables->dc);
    lookup_ = reinterpret_cast<const Step*>(ac + ((next_dc - ac) & ended));
    block_ -= ended;
  }

  // False where the stream is corrupt.
  bool finish(Scan& scan) const {
    scan.reader.next = next_;
    scan.reader.bits = bits_;
    scan.reader.count = count_;
    scan.blocks = block_;
    return (ends_ & kCorruptBit) == 0;
  }

 private:
  static constexpr Places<kGroup> kPlaces{};

  static int64_t first_advance(Step s) { return static_cast<int64_t>(s >> 8 & 255); }

  Step read_one() const {
    const BlockTables& tables = *block_->tables;
    return (place_ < 0 ? tables.dc_codes : tables.ac_codes).read(bits_);
  }

  const uint8_t* next_;
  uint64_t bits_, count_;
  const Block* block_;
  const Block* const end_;
  const Step* lookup_;
  int64_t place_ = -1;  // in zigzag order, of the last coefficient
  int64_t ends_ = 0;
};

template <int kGroup>
inline bool decode_one(Scan& scan, int count) {
  BlockDecoder<kGroup> a(scan, count);
  while (!a.done()) {
    a.refill();
    a.step();
    if (a.done()) break;
    a.step();
  }
  return a.finish(scan);
}

template <int kGroup>
inline bool decode_two(Scan& first, Scan& second, int count) {
  BlockDecoder<kGroup> a(first, count), b(second, count);
  while (!a.done() && !b.done()) {
    a.refill();
    b.refill();
    a.step();
    b.step();
    if (a.done() || b.done()) break;
    a.step();
    b.step();
  }
  while (!a.done()) {
    a.refill();
    a.step();
  }
  while (!b.done()) {
    b.refill();
    b.step();
  }
  const bool good = a.finish(first);
  return b.finish(second) && good;
}

}  // namespace
}  // namespace understudy
