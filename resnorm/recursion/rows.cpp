// The closed form of the recursive skip, row by row: one read of x and h, one write of y. The mathematics: __init__.py.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>

namespace {

struct bf16 { uint16_t bits; };

inline float load(const float* p, int64_t i) { return p[i]; }
inline double load(const double* p, int64_t i) { return p[i]; }
inline float load(const bf16* p, int64_t i) {
  uint32_t bits = uint32_t(p[i].bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline void store(float* p, int64_t i, float value) { p[i] = value; }
inline void store(double* p, int64_t i, double value) { p[i] = value; }
inline void store(bf16* p, int64_t i, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  // To the nearest, ties to even; a NaN keeps its quiet bit, which rounding could carry away.
  p[i].bits = value != value ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// So many rows go through the recurrence of the scalars side by side: its square roots wait for each other within a row.
constexpr int64_t CACHED = 1024;
constexpr int ROWS = 8;
constexpr int MOST = 64;  // the highest order, checked by the caller

// As many rows at a time as the first-level cache holds with their intermediate values, at least one.
inline int block_of(int64_t n) { return n * ROWS <= CACHED ? ROWS : n < CACHED ? int(CACHED / n) : 1; }

template <typename R>
struct Scalars {
  R A[ROWS], W[ROWS], c[ROWS];
  R alpha[MOST][ROWS], beta[MOST][ROWS], s[MOST][ROWS];

  void clear() {
    for (int j = 0; j < ROWS; ++j) A[j] = W[j] = c[j] = 0;
  }

  void recur(int order, R eps) {
    for (int k = 0; k < order; ++k)
#pragma omp simd
      for (int j = 0; j < ROWS; ++j) {
        R p = k ? 1 + alpha[k - 1][j] : c[j], q = k ? beta[k - 1][j] : 1;
        s[k][j] = 1 / std::sqrt(p * p * A[j] + q * q * W[j] + eps);
        alpha[k][j] = p * s[k][j]; beta[k][j] = q * s[k][j];
      }
  }

  // c and W of row j, from its sums of u u, u v and v v.
  void split(int j, const R* u, const R* v, int64_t n, R uu, R uv, R vv) {
    // Where x varies next to nothing, beside the sum or at all, the division could overflow.
    const R c = uu > R(1e-30) * vv + R(1e-37) ? uv / uu : 0;
    R ee = vv - c * uv;
    if (!(ee > vv / 4) && c != 0) {  // nearly parallel: the difference has lost its digits
      ee = 0;
#pragma omp simd reduction(+ : ee)
      for (int64_t i = 0; i < n; ++i) {
        R e = v[i] - c * u[i];
        ee += e * e;
      }
    }
    this->c[j] = c; A[j] = uu / n; W[j] = ee / n;
  }
};

template <typename T, typename R>
void forward(const T* x, const T* h, const R* weight, const R* bias, T* y, int64_t rows, int64_t n, int order,
             R eps, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const int block = block_of(n);
    std::vector<R> buffer(2 * block * n);
    Scalars<R> z;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < rows; start += block) {
      const int count = rows - start < block ? int(rows - start) : block;
      z.clear();
      for (int j = 0; j < count; ++j) {
        const T *X = x + (start + j) * n, *H = h + (start + j) * n;
        R *u = buffer.data() + 2 * j * n, *v = u + n;
        R of_x = 0, of_t = 0, uu = 0, uv = 0, vv = 0;
#pragma omp simd reduction(+ : of_x, of_t)
        for (int64_t i = 0; i < n; ++i) {
          R a = load(X, i), t = a + load(H, i);
          u[i] = a; v[i] = t; of_x += a; of_t += t;
        }
        of_x /= n; of_t /= n;
#pragma omp simd reduction(+ : uu, uv, vv)
        for (int64_t i = 0; i < n; ++i) {
          R a = u[i] - of_x, t = v[i] - of_t;
          u[i] = a; v[i] = t; uu += a * a; uv += a * t; vv += t * t;
        }
        z.split(j, u, v, n, uu, uv, vv);
      }
      z.recur(order, eps);
      for (int j = 0; j < count; ++j) {
        T* Y = y + (start + j) * n;
        const R *u = buffer.data() + 2 * j * n, *v = u + n;
        // Of u and v, since e = v - c u.
        const R beta = z.beta[order - 1][j], alpha = z.alpha[order - 1][j] - z.c[j] * beta;
        if (weight) {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) store(Y, i, (alpha * u[i] + beta * v[i]) * weight[i] + bias[i]);
        } else {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) store(Y, i, alpha * u[i] + beta * v[i]);
        }
      }
    }
  }
}

// `partial` holds, for each thread, its sums for the gradients of weight and bias: added up later in the order of the
// threads, so that the same number of threads gives the same bits.
template <typename T, typename R>
void backward(const T* gradient, const T* x, const T* h, const R* weight, T* dx, T* dh, R* partial, int64_t rows,
              int64_t n, int order, R eps, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const int block = block_of(n);
    std::vector<R> buffer(3 * block * n);
    R* dweight = partial ? partial + 2 * n * omp_get_thread_num() : nullptr;
    R* dbias = dweight + n;
    Scalars<R> z;
    R gu[ROWS], ge[ROWS];                        // means
    R h_g[ROWS], h_u[ROWS], h_e[ROWS];           // the gradient of a sum: its shares of g, u and e
    R x_g[ROWS], x_u[ROWS], x_e[ROWS];           // of all sums
#pragma omp for schedule(static)
    for (int64_t start = 0; start < rows; start += block) {
      const int count = rows - start < block ? int(rows - start) : block;
      z.clear();
      for (int j = 0; j < ROWS; ++j) gu[j] = ge[j] = 0;
      for (int j = 0; j < count; ++j) {
        const T *X = x + (start + j) * n, *H = h + (start + j) * n, *G = gradient + (start + j) * n;
        R *u = buffer.data() + 3 * j * n, *v = u + n, *g = v + n;
        R of_x = 0, of_t = 0, of_g = 0, uu = 0, uv = 0, vv = 0, ug = 0, vg = 0;
        if (weight) {
#pragma omp simd reduction(+ : of_x, of_t, of_g)
          for (int64_t i = 0; i < n; ++i) {
            R a = load(X, i), t = a + load(H, i), e = load(G, i) * weight[i];
            u[i] = a; v[i] = t; g[i] = e; of_x += a; of_t += t; of_g += e;
          }
        } else {
#pragma omp simd reduction(+ : of_x, of_t, of_g)
          for (int64_t i = 0; i < n; ++i) {
            R a = load(X, i), t = a + load(H, i), e = load(G, i);
            u[i] = a; v[i] = t; g[i] = e; of_x += a; of_t += t; of_g += e;
          }
        }
        of_x /= n; of_t /= n; of_g /= n;
#pragma omp simd reduction(+ : uu, uv, vv, ug, vg)
        for (int64_t i = 0; i < n; ++i) {
          R a = u[i] - of_x, t = v[i] - of_t, o = g[i] - of_g;
          u[i] = a; v[i] = t; g[i] = o; uu += a * a; uv += a * t; vv += t * t; ug += o * a; vg += o * t;
        }
        z.split(j, u, v, n, uu, uv, vv);
        gu[j] = ug / n; ge[j] = (vg - z.c[j] * ug) / n;
      }
      z.recur(order, eps);
#pragma omp simd
      for (int j = 0; j < ROWS; ++j) { h_g[j] = 1; h_u[j] = h_e[j] = x_g[j] = x_u[j] = x_e[j] = 0; }
      for (int k = order - 1; k >= 0; --k)
#pragma omp simd
        for (int j = 0; j < ROWS; ++j) {
          R alpha = z.alpha[k][j], beta = z.beta[k][j], s = z.s[k][j];
          R along = alpha * (h_g[j] * gu[j] + h_u[j] * z.A[j]) + beta * (h_g[j] * ge[j] + h_e[j] * z.W[j]);
          x_g[j] += h_g[j] = s * h_g[j];
          x_u[j] += h_u[j] = s * (h_u[j] - along * alpha);
          x_e[j] += h_e[j] = s * (h_e[j] - along * beta);
        }
      for (int j = 0; j < count; ++j) {
        const T* G = gradient + (start + j) * n;
        T *DX = dx + (start + j) * n, *DH = dh + (start + j) * n;
        const R *u = buffer.data() + 3 * j * n, *v = u + n, *g = v + n;
        // Of u and v, since e = v - c u.
        const R c = z.c[j], beta = z.beta[order - 1][j], alpha = z.alpha[order - 1][j] - c * beta;
        const R hg = h_g[j], hv = h_e[j], hu = h_u[j] - c * hv, xg = x_g[j], xv = x_e[j], xu = x_u[j] - c * xv;
        if (partial) {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) {
            store(DX, i, xg * g[i] + xu * u[i] + xv * v[i]);
            store(DH, i, hg * g[i] + hu * u[i] + hv * v[i]);
            R e = load(G, i);
            dweight[i] += e * (alpha * u[i] + beta * v[i]);
            dbias[i] += e;
          }
        } else {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) {
            store(DX, i, xg * g[i] + xu * u[i] + xv * v[i]);
            store(DH, i, hg * g[i] + hu * u[i] + hv * v[i]);
          }
        }
      }
    }
  }
}

}  // namespace

#define INSTANCE(NAME, T, R)                                                                                           \
  extern "C" void forward_##NAME(const T* x, const T* h, const R* weight, const R* bias, T* y, int64_t rows,          \
                                 int64_t n, int order, double eps, int threads) {                                     \
    forward<T, R>(x, h, weight, bias, y, rows, n, order, R(eps), threads);                                            \
  }                                                                                                                    \
  extern "C" void backward_##NAME(const T* gradient, const T* x, const T* h, const R* weight, T* dx, T* dh,           \
                                  R* partial, int64_t rows, int64_t n, int order, double eps, int threads) {          \
    backward<T, R>(gradient, x, h, weight, dx, dh, partial, rows, n, order, R(eps), threads);                         \
  }

INSTANCE(float32, float, float)
INSTANCE(bfloat16, bf16, float)
INSTANCE(float64, double, double)
