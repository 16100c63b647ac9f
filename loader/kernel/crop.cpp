#include "crop.h"

#include <algorithm>

namespace understudy {

// The samples, and what each counts, that make one output of a row.
struct Taps {
  int place[4];
  int weight[4];
};

namespace {

// A coordinate as a whole number and a fraction in units of 1/one.
struct Place {
  int whole, fraction;
};

// Where along one axis output `o` of `size` lies in the box from `start` on.
Place place_of(int o, int size, int start, int length, int one) {
  const double inside = std::min(std::max((o + 0.5) * length / size - 0.5, 0.0), length - 1.0);
  const int whole = static_cast<int>(inside);
  const int fraction = static_cast<int>((inside - whole) * one + 0.5);
  return fraction == one ? Place{start + whole + 1, 0} : Place{start + whole, fraction};
}

constexpr int kOne = 128;         // columns' weights, which sum up to it
constexpr int kRowOne = 1 << 15;  // rows'

Taps luma_taps(const Place& at) {
  // A weight of 128 does not fit a signed byte: the sample is taken twice.
  if (at.fraction == 0) return {{at.whole, at.whole}, {kOne / 2, kOne / 2}};
  return {{at.whole, at.whole + 1}, {kOne - at.fraction, at.fraction}};
}

// The output lies `fraction` of the way from one pixel to the next. Of these, the even one gets its chroma from sample
// whole / 2 and, if samples lie between pixels, a quarter from the one before; the odd one from that and the one after.
Taps chroma_taps(const Place& at, int last, bool between) {
  const int middle = at.whole / 2, left = std::max(middle - 1, 0), right = std::min(middle + 1, last);
  const bool odd = at.whole % 2;
  int before = 0, after;
  if (!between) {
    after = odd ? kOne / 2 + at.fraction / 2 : (at.fraction + 1) / 2;
  } else if (odd) {
    after = kOne / 4 + (at.fraction + 1) / 2;
  } else {
    before = (kOne - at.fraction + 2) / 4;
    after = kOne / 4 - before;
  }
  const int rest = kOne - before - after, half = rest / 2;
  return {{left, middle, middle, right}, {before, rest - half, half, after}};
}

// A resized row for each of the last rows that were needed, four at the most.
class RowCache {
 public:
  RowCache(const Plane& plane, const Columns& columns, const Simd& simd, int16_t* room, size_t row_size)
      : plane_(plane), columns_(columns), simd_(simd), room_(room), row_size_(row_size) {}

  const int16_t* operator[](int row) {
    int16_t* out = room_ + (row & 3) * row_size_;
    if (number_[row & 3] != row) {
      simd_.resize_row(plane_.data + row * plane_.stride, columns_, out);
      number_[row & 3] = row;
    }
    return out;
  }

 private:
  const Plane& plane_;
  const Columns& columns_;
  const Simd& simd_;
  int16_t* const room_;
  const size_t row_size_;
  int number_[4] = {-1, -1, -1, -1};
};

int padded(int size) { return (size + 63) / 64 * 64; }

}  // namespace

void CropPlan::ColumnTable::resize(int taps) {
  places.resize(static_cast<size_t>(taps));
  weights.resize(static_cast<size_t>(taps));
}

void CropPlan::ColumnTable::put(int at, const Taps& taps, int tap) {
  places[static_cast<size_t>(at)] = taps.place[tap];
  weights[static_cast<size_t>(at)] = static_cast<int8_t>(taps.weight[tap]);
}

// Makes the tables for windows out of `places`.
void CropPlan::ColumnTable::prepare(int size, int pairs, int64_t row_bytes, const Simd& simd) {
  const int outputs = padded(size);
  const ptrdiff_t pair_size = 2 * outputs;
  base.resize(static_cast<size_t>(outputs / simd.lanes));
  index.resize(places.size());
  bool windowed = row_bytes >= simd.window;
  for (int begin = 0; windowed && begin < outputs; begin += simd.lanes) {
    const auto each_place = [&](auto&& act) {
      for (int o = begin; o < begin + simd.lanes; o++) {
        for (ptrdiff_t i = 2 * simd.slot(o); i < pairs * pair_size; i += pair_size) act(i), act(i + 1);
      }
    };
    int least = places[2 * static_cast<size_t>(simd.slot(begin))], most = least;
    each_place([&](ptrdiff_t i) {
      least = std::min(least, places[static_cast<size_t>(i)]);
      most = std::max(most, places[static_cast<size_t>(i)]);
    });
    const int first = static_cast<int>(std::min<int64_t>(least, row_bytes - simd.window));
    windowed = most - first < simd.window;
    base[static_cast<size_t>(begin / simd.lanes)] = first;
    each_place([&](ptrdiff_t i) {
      index[static_cast<size_t>(i)] = static_cast<uint8_t>(places[static_cast<size_t>(i)] - first);
    });
  }
  view = {size, pairs, pair_size, windowed, places.data(), weights.data(), base.data(), index.data()};
}

void CropPlan::prepare(const Crop& crop, const Layout& layout, int size, const Simd& simd) {
  size_ = size;
  const int outputs = padded(size), last_column = (layout.width + 1) / 2 - 1;
  luma_columns_.resize(2 * outputs);
  chroma_columns_.resize(4 * outputs);
  for (int i = 0; i < outputs; i++) {
    const int o = std::min(i, size - 1), slot = simd.slot(i);
    const Place at = place_of(crop.flip ? size - 1 - o : o, size, crop.x, crop.width, kOne);
    const Taps luma = luma_taps(at), chroma = chroma_taps(at, last_column, layout.chroma_in_the_middle);
    for (int tap = 0; tap < 2; tap++) {
      luma_columns_.put(2 * slot + tap, luma, tap);
      chroma_columns_.put(2 * slot + tap, chroma, tap);
      chroma_columns_.put(2 * (outputs + slot) + tap, chroma, 2 + tap);
    }
  }
  luma_columns_.prepare(size, 1, layout.luma_bytes, simd);
  chroma_columns_.prepare(size, 2, layout.chroma_bytes, simd);

  luma_rows_.resize(static_cast<size_t>(size));
  chroma_rows_.resize(static_cast<size_t>(size));
  last_chroma_row_ = (layout.height + 1) / 2 - 1;
  for (int o = 0; o < size; o++) {
    const Place at = place_of(o, size, crop.y, crop.height, kRowOne);
    luma_rows_[static_cast<size_t>(o)] = {at.whole, 0, static_cast<int16_t>(at.fraction)};
    // As for columns. Of rows, chroma always lies between two.
    const bool odd = at.whole % 2;
    const int above = odd ? 0 : (kRowOne - at.fraction) / 4;
    const int below = odd ? kRowOne / 4 + at.fraction / 2 : at.fraction / 4;
    chroma_rows_[static_cast<size_t>(o)] = {at.whole / 2, static_cast<int16_t>(above), static_cast<int16_t>(below)};
  }
}

void CropPlan::run(const Picture& picture, const Colour& colour, const Simd& simd, Buffer<int16_t>& room, uint8_t* out,
                   int64_t plane) const {
  const auto row_size = static_cast<size_t>(padded(size_));
  int16_t* rows = room.need(12 * row_size);
  RowCache y(picture.plane[0], luma_columns_.view, simd, rows, row_size);
  RowCache cb(picture.plane[1], chroma_columns_.view, simd, rows + 4 * row_size, row_size);
  RowCache cr(picture.plane[2], chroma_columns_.view, simd, rows + 8 * row_size, row_size);
  for (size_t o = 0; o < static_cast<size_t>(size_); o++, out += size_) {
    const RowTaps &luma = luma_rows_[o], &chroma = chroma_rows_[o];
    const int16_t* top = y[luma.middle];
    const int16_t* bottom = luma.below ? y[luma.middle + 1] : top;
    const int above = std::max(chroma.middle - 1, 0), below = std::min(chroma.middle + 1, last_chroma_row_);
    const auto three = [&](RowCache& cache) {
      const int16_t* middle = cache[chroma.middle];
      return RowTriple{middle, chroma.above ? cache[above] : middle, chroma.below ? cache[below] : middle, chroma.above,
                       chroma.below};
    };
    simd.blend_rows({top, bottom, luma.below}, three(cb), three(cr), colour, size_,
                    {out, out + plane, out + 2 * plane});
  }
}

}  // namespace understudy
