// The inner loops, written once over the vectors of a processor. Each simd_*.cpp defines such vectors, compiles this for
// its instructions and makes a Simd of it. Only fixed-size arithmetic that all processors do alike is used.
//
// A vector type V has
//   Words          some 16-bit numbers, those of V::kGroup rows of 8; Ints, as many 32-bit numbers; Pairs, both of two
//   load, store, broadcast(row of 8), set(number), add, subtract, multiply (all modulo 2^16), add_sat, subtract_sat
//   scale(a, b)    (a * b + 2^14) >> 15
//   zip(a, b)      pairs of a and b; dot(pairs, p, q) = a * p + b * q in 32 bits
//   narrow<n>(i)   i >> n, saturated to 16 bits
//   transpose(w)   8 rows of 8, in each group
//   store_pixels   8 columns of 8 words, saturated to bytes, as 8 rows of pixels
//   store_rgb      V::kStep words of each colour, saturated to bytes: whole vectors past the caches, or the first n
//   weigh          the sums of one pair of samples for the outputs at slots [s, s + words of V) of a row
//   slot(o)        as in Simd
#pragma once

#include "entropy.h"

namespace understudy {
namespace {

// cos(i * pi / 16) * sqrt(2) and sums of them, in units of 1/8192 as libjpeg rounds them.
constexpr int kF0298 = 2446, kF0390 = 3196, kF0541 = 4433, kF0765 = 6270, kF0899 = 7373, kF1175 = 9633, kF1501 = 12299,
              kF1847 = 15137, kF1961 = 16069, kF2053 = 16819, kF2562 = 20995, kF3072 = 25172;

// The one-dimensional transform of Loeffler, Ligtenberg and Moschytz over the rows, as sums of products: the same
// integers as libjpeg's, whatever the order. The result is shifted right by kShift after `bias` is added.
template <class V, int kShift>
inline void inverse_dct_pass(typename V::Words (&r)[8], int bias) {
  using Ints = typename V::Ints;
  const auto r04 = V::zip(r[0], r[4]), r26 = V::zip(r[2], r[6]), r13 = V::zip(r[1], r[3]), r57 = V::zip(r[5], r[7]);

  const Ints sum = V::add(V::dot(r04, 8192, 8192), V::set_ints(bias));
  const Ints difference = V::add(V::dot(r04, 8192, -8192), V::set_ints(bias));
  const Ints rotated2 = V::dot(r26, kF0541, kF0541 - kF1847), rotated3 = V::dot(r26, kF0541 + kF0765, kF0541);
  const Ints even[4] = {V::add(sum, rotated3), V::add(difference, rotated2), V::subtract(difference, rotated2),
                        V::subtract(sum, rotated3)};

  const Ints odd[4] = {
      V::add(V::dot(r13, kF1501 - kF0899 - kF0390 + kF1175, kF1175), V::dot(r57, kF1175 - kF0390, kF1175 - kF0899)),
      V::add(V::dot(r13, kF1175, kF3072 - kF2562 - kF1961 + kF1175), V::dot(r57, kF1175 - kF2562, kF1175 - kF1961)),
      V::add(V::dot(r13, kF1175 - kF0390, kF1175 - kF2562), V::dot(r57, kF2053 - kF2562 - kF0390 + kF1175, kF1175)),
      V::add(V::dot(r13, kF1175 - kF0899, kF1175 - kF1961), V::dot(r57, kF1175, kF0298 - kF0899 - kF1961 + kF1175))};

  for (int i = 0; i < 4; i++) {
    r[i] = V::template narrow<kShift>(V::add(even[i], odd[i]));
    r[7 - i] = V::template narrow<kShift>(V::subtract(even[i], odd[i]));
  }
}

template <class V>
inline void inverse_dct(int16_t* blocks, int count, const uint16_t* quant, uint8_t* out, ptrdiff_t stride) {
  constexpr int kRow = 8 * V::kGroup;
  const typename V::Words zero = V::set(0);
  for (int done = 0; done < count; done += V::kGroup, blocks += 8 * kRow, out += kRow) {
    typename V::Words r[8];
    for (int i = 0; i < 8; i++) {
      r[i] = V::multiply(V::load(blocks + i * kRow), V::broadcast(quant + 8 * i));
      V::store(blocks + i * kRow, zero);
    }
    inverse_dct_pass<V, 11>(r, 1 << 10);
    V::transpose(r);
    inverse_dct_pass<V, 18>(r, (1 << 17) + (128 << 18));
    V::store_pixels(r, out, stride);
  }
}

template <class V>
inline void resize_row(const uint8_t* row, const Columns& columns, int16_t* out) {
  constexpr int kWords = 8 * V::kGroup;
  const int slots = (columns.size + V::kStep - 1) / V::kStep * V::kStep;
  if (!columns.windowed) {
    for (int o = 0; o < columns.size; o++) {
      const int s = V::slot(o);
      int sum = 0;
      for (ptrdiff_t i = 2 * s; i < columns.pairs * columns.pair_size; i += columns.pair_size) {
        sum += row[columns.places[i]] * columns.weights[i] + row[columns.places[i + 1]] * columns.weights[i + 1];
      }
      out[s] = static_cast<int16_t>(sum);
    }
  } else if (columns.pairs == 1) {
    for (int s = 0; s < slots; s += kWords) V::store(out + s, V::weigh(row, columns, s, 0));
  } else {
    for (int s = 0; s < slots; s += kWords) {
      V::store(out + s, V::add(V::weigh(row, columns, s, 0), V::weigh(row, columns, s, columns.pair_size)));
    }
  }
}

// How much is added to go from `from` towards what is at `to`.
template <class V>
inline typename V::Words toward(typename V::Words from, const int16_t* to, typename V::Words weight) {
  return V::scale(V::subtract(V::load(to), from), weight);
}

template <class V, bool kAbove>
inline typename V::Words blend_chroma(const RowTriple& rows, int at, typename V::Words above, typename V::Words below) {
  const typename V::Words middle = V::load(rows.middle + at);
  const typename V::Words sum = V::add(middle, toward<V>(middle, rows.below + at, below));
  return kAbove ? V::add(sum, toward<V>(middle, rows.above + at, above)) : sum;
}

template <class V, bool kAbove, bool kStream>
inline void blend_rows(const RowPair& y, const RowTriple& cb, const RowTriple& cr, const Colour& colour, int size,
                       const Rgb& out) {
  using Words = typename V::Words;
  constexpr int kWords = 8 * V::kGroup, kParts = V::kStep / kWords;
  // Copies: pixels that are stored might be taken for changes of the originals.
  const RowPair luma_rows = y;
  const RowTriple chroma_rows[2] = {cb, cr};
  const Rgb to = out;
  const Words y_weight = V::set(y.weight), above = V::set(cb.above_weight), below = V::set(cb.below_weight);
  const Words luma_offset = V::set(colour.luma_offset), luma_gain = V::set(colour.luma_gain);
  const Words grey = V::set(128 * 128), red_cr = V::set(colour.red_cr), green_cb = V::set(colour.green_cb);
  const Words green_cr = V::set(colour.green_cr), blue_cb = V::set(colour.blue_cb), to_byte = V::set(512);

  for (int i = 0; i < size; i += V::kStep) {
    Words r[kParts], g[kParts], b[kParts];
    for (int part = 0; part < kParts; part++) {
      const int at = i + part * kWords;
      const Words top = V::load(luma_rows.top + at);
      const Words whole = V::add(top, toward<V>(top, luma_rows.bottom + at, y_weight));
      const Words luma = V::scale(V::subtract(whole, luma_offset), luma_gain);
      const Words u = V::subtract(blend_chroma<V, kAbove>(chroma_rows[0], at, above, below), grey);
      const Words v = V::subtract(blend_chroma<V, kAbove>(chroma_rows[1], at, above, below), grey);
      const Words half_blue = V::scale(u, blue_cb);
      const Words less_green = V::add(V::scale(u, green_cb), V::scale(v, green_cr));
      r[part] = V::scale(V::add_sat(luma, V::scale(v, red_cr)), to_byte);
      g[part] = V::scale(V::subtract_sat(luma, less_green), to_byte);
      b[part] = V::scale(V::add_sat(V::add_sat(luma, half_blue), half_blue), to_byte);
    }
    V::template store_rgb<kStream>(r, g, b, {to.red + i, to.green + i, to.blue + i}, size - i);
  }
}

template <class V>
inline void blend_rows(const RowPair& y, const RowTriple& cb, const RowTriple& cr, const Colour& colour, int size,
                       const Rgb& out) {
  // What is written here is read much later, and would only push out of the caches what decoding needs. To write past
  // them takes whole vectors in their places.
  const auto places = reinterpret_cast<uintptr_t>(out.red) | reinterpret_cast<uintptr_t>(out.green) |
                      reinterpret_cast<uintptr_t>(out.blue) | static_cast<uintptr_t>(size);
  const bool stream = places % V::kStep == 0;
  if (cb.above_weight) {
    (stream ? blend_rows<V, true, true> : blend_rows<V, true, false>)(y, cb, cr, colour, size, out);
  } else {
    (stream ? blend_rows<V, false, true> : blend_rows<V, false, false>)(y, cb, cr, colour, size, out);
  }
}

template <class V>
constexpr Simd make_simd(const char* name) {
  return {name,    V::kGroup,         V::kLanes,    V::kWindow,
          V::slot, decode_one<V::kGroup>, decode_two<V::kGroup>, inverse_dct<V>, resize_row<V>, blend_rows<V>};
}

}  // namespace
}  // namespace understudy
