// Group norm of images whose channels are the last axis in memory: a read for the sums, and a read with the write.
// The mathematics: channels_last.py.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>
#include <omp.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

// A sample is worked on in pieces, in which the lanes of channels go down the pixels one by one with their sums in registers.
// Pieces depend on the sample's shape alone, and their sums are added in their order: so do the bits that come out.
constexpr int64_t HEIGHT = 32;  // pixels; so few that 32 bits hold their sums of the gradient

struct Image {
  int64_t samples, pixels, channels, groups;
  int64_t pieces() const { return (pixels + HEIGHT - 1) / HEIGHT; }
  int64_t values() const { return pixels * (channels / groups); }  // of a group
  int64_t row() const { return channels * std::max<int64_t>(1, 256 / channels); }  // pixels in a row, written as one
};

// L numbers as vectors of W: those of a processor have 32 bytes.
template <typename R, int L>
struct Lanes {
  static constexpr int W = std::min<int>(L, 32 / sizeof(R)), COUNT = L / W;
  typedef R Vector __attribute__((vector_size(W * sizeof(R)), aligned(sizeof(R)), may_alias));
  typedef float Single __attribute__((vector_size(W * sizeof(float)), aligned(sizeof(float)), may_alias));
  Vector v[COUNT] = {};
  Lanes() = default;
  explicit Lanes(const float* p) {
    for (int k = 0; k < COUNT; ++k) v[k] = load(p, k);
  }
  static Vector load(const float* p, int k) {
    if constexpr (std::is_same_v<R, float>) return reinterpret_cast<const Vector*>(p)[k];
#ifdef __AVX__  // what GCC makes of __builtin_convertvector goes through memory
    else if constexpr (W == 4) return _mm256_cvtps_pd(_mm_loadu_ps(p + 4 * k));
#endif
    else return __builtin_convertvector(reinterpret_cast<const Single*>(p)[k], Vector);
  }
  void put_into(double* p) const {
    if constexpr (std::is_same_v<R, float>) {
      float single[L];
      for (int k = 0; k < COUNT; ++k) reinterpret_cast<Vector*>(single)[k] = v[k];
      Lanes<double, L>(single).put_into(p);
    } else {
      for (int k = 0; k < COUNT; ++k) reinterpret_cast<Vector*>(p)[k] = v[k];
    }
  }
};

// f(a number of lanes known to the compiler, the first channel) over all channels, as many lanes at a time as there are.
template <typename F>
inline void over_lanes(int64_t channels, F f) {
  int64_t c = 0;
  for (; c + 32 <= channels; c += 32) f(std::integral_constant<int, 32>(), c);
  if (c + 16 <= channels) f(std::integral_constant<int, 16>(), c), c += 16;
  if (c + 8 <= channels) f(std::integral_constant<int, 8>(), c), c += 8;
  if (c + 4 <= channels) f(std::integral_constant<int, 4>(), c), c += 4;
  for (; c < channels; ++c) f(std::integral_constant<int, 1>(), c);
}

inline float median(const std::array<const float*, 3>& three, int64_t c) {
  const float a = three[0][c], b = three[1][c];
  return std::max(std::min(a, b), std::min(std::max(a, b), three[2][c]));
}

// For each sample: sums(sample, first pixel, pixels, two sums a channel) of each piece, finish(sample, their total, four
// coefficients a channel), write(sample, first pixel, pixels, coefficients) of each piece.
template <typename Sums, typename Finish, typename Write>
void over_samples(const Image& image, int threads, Sums sums, Finish finish, Write write) {
  const int64_t C = image.channels, pieces = image.pieces(), row = image.row();
  // Few samples: all threads share each of them.
  const bool together = image.samples % threads && image.samples < 4 * threads;
  std::vector<double> shared(together ? pieces * 2 * C : 0);
#pragma omp parallel num_threads(threads)
  {
    const int me = omp_get_thread_num(), all = omp_get_num_threads();
    const int64_t first = together ? me : 0, step = together ? all : 1;
    std::vector<double> own(2 * C), total(2 * C);
    std::vector<float> coefficients(4 * row);
    auto add = [&](const double* sums) {
      for (int64_t i = 0; i < 2 * C; ++i) total[i] += sums[i];
    };
    for (int64_t n = together ? 0 : me; n < image.samples; n += together ? 1 : all) {
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t p = first; p < pieces; p += step) {
        double* to = together ? shared.data() + p * 2 * C : own.data();
        sums(n, p * HEIGHT, std::min(HEIGHT, image.pixels - p * HEIGHT), to);
        if (!together) add(to);
      }
      if (together) {
#pragma omp barrier
        // Every thread finishes the sample for itself, with the same numbers.
        for (int64_t p = 0; p < pieces; ++p) add(shared.data() + p * 2 * C);
      }
      finish(n, total.data(), coefficients.data());
      for (int64_t k = 0; k < 4; ++k)
        for (int64_t i = k * row + C; i < (k + 1) * row; ++i) coefficients[i] = coefficients[i - C];
      for (int64_t p = first; p < pieces; p += step)
        write(n, p * HEIGHT, std::min(HEIGHT, image.pixels - p * HEIGHT), coefficients.data());
      if (together) {
#pragma omp barrier
      }
    }
  }
}

}  // namespace

// y, and the mean and 1 / deviation of each sample's groups.
extern "C" void forward(const float* x, const float* weight, const float* bias, float* y, double* statistics,
                        int64_t samples, int64_t pixels, int64_t channels, int64_t groups, double eps, int threads) {
  double *mean = statistics, *scale = mean + samples * groups;
  const Image image{samples, pixels, channels, groups};
  const int64_t C = channels, width = C / groups, row = image.row();
  // Each channel is summed beside the median of three of its pixels, which takes away most of a large mean, and all of a constant
  // with spots; what is left is small enough for 32 bits over a piece.
  auto middle = [=](int64_t n) {
    const float* X = x + n * pixels * C;
    return std::array{X, X + pixels / 2 * C, X + (pixels - 1) * C};
  };
  auto sums = [=](int64_t n, int64_t start, int64_t count, double* to) {
    const float* X = x + (n * pixels + start) * C;
    const auto three = middle(n);
    over_lanes(C, [=](auto number, int64_t c) {
      using S = Lanes<float, number>;
      float medians[number];
      for (int l = 0; l < number; ++l) medians[l] = median(three, c + l);
      const S shift(medians);
      S sum[2], square[2];
      auto add = [&](int64_t i, int j) {
        for (int k = 0; k < S::COUNT; ++k) {
          const auto u = S::load(X + i * C + c, k) - shift.v[k];
          sum[j].v[k] += u;
          square[j].v[k] += u * u;
        }
      };
      int64_t i = 0;
      for (; i + 2 <= count; i += 2) add(i, 0), add(i + 1, 1);
      if (i < count) add(i, 0);
      for (int k = 0; k < S::COUNT; ++k) sum[0].v[k] += sum[1].v[k], square[0].v[k] += square[1].v[k];
      sum[0].put_into(to + c), square[0].put_into(to + C + c);
    });
  };
  auto finish = [=](int64_t n, const double* total, float* coefficients) {
    const auto three = middle(n);
    const double share = 1.0 / pixels;
    for (int64_t g = 0; g < groups; ++g) {
      double of_group = 0, variance = 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) of_group += median(three, c) + total[c] * share;
      of_group /= width;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        const double u = total[c] * share, off = median(three, c) + u - of_group;
        variance += total[C + c] * share - u * u + off * off;
      }
      variance /= width;
      // Below 0 by rounding only; a NaN stays one.
      const double s = 1 / std::sqrt((variance < 0 ? 0 : variance) + eps);
      mean[n * groups + g] = of_group, scale[n * groups + g] = s;
      // Where the mean is small, taking it off rounds more than it saves.
      const float centre = std::fabs(of_group) * s > 1 ? float(of_group) : 0;
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        const double gain = weight ? s * weight[c] : s;
        coefficients[c] = centre, coefficients[row + c] = float(gain);
        coefficients[2 * row + c] = float((bias ? bias[c] : 0) - (of_group - centre) * gain);
      }
    }
  };
  auto write = [=](int64_t n, int64_t start, int64_t count, const float* coefficients) {
    const int64_t offset = (n * pixels + start) * C;
    const float *centre = coefficients, *gain = centre + row, *shift = gain + row;
    for (int64_t i = 0; i < count * C; i += row) {
      const float* X = x + offset + i;
      float* Y = y + offset + i;
      const int64_t length = std::min(row, count * C - i);
#pragma omp simd
      for (int64_t j = 0; j < length; ++j) Y[j] = (X[j] - centre[j]) * gain[j] + shift[j];
    }
  };
  over_samples(image, threads, sums, finish, write);
}

// dx where it is wanted, and for each sample the gradients of weight and bias.
extern "C" void backward(const float* gradient, const float* x, const float* weight, const double* statistics, float* dx,
                         double* affine, int64_t samples, int64_t pixels, int64_t channels, int64_t groups, int threads) {
  const double *mean = statistics, *scale = mean + samples * groups;
  double *dweight = affine, *dbias = dweight + samples * channels;
  const Image image{samples, pixels, channels, groups};
  const int64_t C = channels, width = C / groups, row = image.row();
  std::vector<float> centres(samples * C);
  for (int64_t g = 0; g < samples * groups; ++g)
    std::fill_n(centres.begin() + g * width, width, float(mean[g]));
  const float* all = centres.data();
  auto sums = [=](int64_t n, int64_t start, int64_t count, double* to) {
    const int64_t offset = (n * pixels + start) * C;
    const float *X = x + offset, *G = gradient + offset;
    over_lanes(C, [=](auto number, int64_t c) {
      using S = Lanes<float, number>;
      const S centre(all + n * C + c);
      S sum, product;
      for (int64_t i = 0; i < count; ++i)
        for (int k = 0; k < S::COUNT; ++k) {
          const auto g = S::load(G + i * C + c, k);
          sum.v[k] += g;
          product.v[k] += g * (S::load(X + i * C + c, k) - centre.v[k]);
        }
      sum.put_into(to + c), product.put_into(to + C + c);
    });
  };
  auto finish = [=](int64_t n, const double* total, float* coefficients) {
    for (int64_t g = 0; g < groups; ++g) {
      const double m = mean[n * groups + g], s = scale[n * groups + g], rest = m - float(m);
      double of_g = 0, of_gy = 0;  // means of gain times gradient, and of that times the normalised x
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        const double gain = weight ? weight[c] : 1, along = (total[C + c] - rest * total[c]) * s;
        dbias[n * C + c] = total[c], dweight[n * C + c] = along;
        of_g += gain * total[c], of_gy += gain * along;
      }
      of_g /= image.values(), of_gy /= image.values();
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        coefficients[c] = float(m), coefficients[row + c] = float(weight ? s * weight[c] : s);
        coefficients[2 * row + c] = float(-s * s * of_gy), coefficients[3 * row + c] = float(s * s * of_gy * rest - s * of_g);
      }
    }
  };
  auto write = [=](int64_t n, int64_t start, int64_t count, const float* coefficients) {
    if (!dx) return;
    const int64_t offset = (n * pixels + start) * C;
    const float *centre = coefficients, *of_g = centre + row, *of_x = of_g + row, *shift = of_x + row;
    for (int64_t i = 0; i < count * C; i += row) {
      const float *X = x + offset + i, *G = gradient + offset + i;
      float* D = dx + offset + i;
      const int64_t length = std::min(row, count * C - i);
#pragma omp simd
      for (int64_t j = 0; j < length; ++j) D[j] = of_g[j] * G[j] + of_x[j] * (X[j] - centre[j]) + shift[j];
    }
  };
  over_samples(image, threads, sums, finish, write);
}
