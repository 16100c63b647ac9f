// From Y'CbCr, as the matrix and range of a video define it, to full-range RGB.
#pragma once

#include <cmath>
#include <cstdint>

#include "simd.h"

namespace understudy {

// `kr` and `kb` are what red and blue count in luma. Planes come in units of 1/128, chroma less its middle, and colours
// go out in units of 1/64, so that nothing here overflows 16 bits; a factor f is stored as f * 32768.
inline Colour make_colour(double kr, double kb, bool full_range) {
  const double kg = 1 - kr - kb;
  const double luma = full_range ? 1 : 255.0 / 219, chroma = full_range ? 1 : 255.0 / 224;
  const auto factor = [](double f) { return static_cast<int16_t>(std::lround(f * 32768)); };
  Colour colour;
  colour.luma_offset = full_range ? 0 : 16 * 128;
  colour.luma_gain = factor(luma / 2);
  colour.red_cr = factor(2 * (1 - kr) * chroma / 2);
  colour.green_cb = factor(2 * (1 - kb) * kb / kg * chroma / 2);
  colour.green_cr = factor(2 * (1 - kr) * kr / kg * chroma / 2);
  colour.blue_cb = factor(2 * (1 - kb) * chroma / 4);  // added twice: whole, it would pass 1
  return colour;
}

}  // namespace understudy
