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
  R A[ROWS], D[ROWS], W[ROWS], c[ROWS], alpha[ROWS], beta[ROWS];
  R p[MOST][ROWS], q[MOST][ROWS], s[MOST][ROWS];

  void clear() {
    for (int j = 0; j < ROWS; ++j) A[j] = D[j] = W[j] = c[j] = 0;
  }

  void recur(int order, R eps) {
#pragma omp simd
    for (int j = 0; j < ROWS; ++j) { alpha[j] = c[j] - 1; beta[j] = 1; }
    for (int k = 0; k < order; ++k)
#pragma omp simd
      for (int j = 0; j < ROWS; ++j) {
        R to_u = k ? 1 + alpha[j] : c[j], to_e = beta[j];
        R square = to_u * to_u * A[j] + 2 * to_u * to_e * D[j] + to_e * to_e * W[j];
        R scale = 1 / std::sqrt((square < 0 ? 0 : square) + eps);
        p[k][j] = to_u; q[k][j] = to_e; s[k][j] = scale;
        alpha[j] = to_u * scale; beta[j] = to_e * scale;
      }
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
        R of_x = 0, of_t = 0, A = 0, V = 0, D = 0, W = 0;
#pragma omp simd reduction(+ : of_x, of_t)
        for (int64_t i = 0; i < n; ++i) {
          R a = load(X, i), t = a + load(H, i);
          u[i] = a; v[i] = t; of_x += a; of_t += t;
        }
        of_x /= n; of_t /= n;
#pragma omp simd reduction(+ : A, V)
        for (int64_t i = 0; i < n; ++i) {
          R a = u[i] - of_x, t = v[i] - of_t;
          u[i] = a; v[i] = t; A += a * a; V += a * t;
        }
        const R c = A > 0 ? V / A : 0;
#pragma omp simd reduction(+ : D, W)
        for (int64_t i = 0; i < n; ++i) {
          R e = v[i] - c * u[i];
          v[i] = e; D += u[i] * e; W += e * e;
        }
        z.A[j] = A / n; z.D[j] = D / n; z.W[j] = W / n; z.c[j] = c;
      }
      z.recur(order, eps);
      for (int j = 0; j < count; ++j) {
        T* Y = y + (start + j) * n;
        const R *u = buffer.data() + 2 * j * n, *v = u + n;
        const R alpha = z.alpha[j], beta = z.beta[j];
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
    R da[ROWS], db[ROWS], dA[ROWS], dD[ROWS], dW[ROWS];
#pragma omp for schedule(static)
    for (int64_t start = 0; start < rows; start += block) {
      const int count = rows - start < block ? int(rows - start) : block;
      z.clear();
      for (int j = 0; j < ROWS; ++j) da[j] = db[j] = 0;
      for (int j = 0; j < count; ++j) {
        const T *X = x + (start + j) * n, *H = h + (start + j) * n, *G = gradient + (start + j) * n;
        R *u = buffer.data() + 3 * j * n, *v = u + n, *g = v + n;
        R of_x = 0, of_t = 0, of_g = 0, A = 0, V = 0, D = 0, W = 0, P = 0, Q = 0;
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
#pragma omp simd reduction(+ : A, V, P)
        for (int64_t i = 0; i < n; ++i) {
          R a = u[i] - of_x, t = v[i] - of_t, o = g[i] - of_g;
          u[i] = a; v[i] = t; g[i] = o; A += a * a; V += a * t; P += o * a;
        }
        const R c = A > 0 ? V / A : 0;
#pragma omp simd reduction(+ : D, W, Q)
        for (int64_t i = 0; i < n; ++i) {
          R e = v[i] - c * u[i];
          v[i] = e; D += u[i] * e; W += e * e; Q += g[i] * e;
        }
        z.A[j] = A / n; z.D[j] = D / n; z.W[j] = W / n; z.c[j] = c; da[j] = P / n; db[j] = Q / n;
      }
      z.recur(order, eps);
#pragma omp simd
      for (int j = 0; j < ROWS; ++j) dA[j] = dD[j] = dW[j] = 0;
      for (int k = order - 1; k >= 0; --k)
#pragma omp simd
        for (int j = 0; j < ROWS; ++j) {
          R p = z.p[k][j], q = z.q[k][j], s = z.s[k][j];
          R d = R(-0.5) * s * s * s * (da[j] * p + db[j] * q);
          dA[j] += d * p * p; dD[j] += 2 * d * p * q; dW[j] += d * q * q;
          da[j] = da[j] * s + 2 * d * (p * z.A[j] + q * z.D[j]);
          db[j] = db[j] * s + 2 * d * (p * z.D[j] + q * z.W[j]);
        }
      for (int j = 0; j < count; ++j) {
        const T* G = gradient + (start + j) * n;
        T *DX = dx + (start + j) * n, *DH = dh + (start + j) * n;
        const R *u = buffer.data() + 3 * j * n, *v = u + n, *g = v + n;
        const R alpha = z.alpha[j], beta = z.beta[j], hu = dD[j], hv = 2 * dW[j], rest = 1 - z.c[j];
        const R xg = alpha + rest * beta, xu = 2 * dA[j] + rest * hu, xv = dD[j] + rest * hv;
        if (partial) {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) {
            store(DX, i, xg * g[i] + xu * u[i] + xv * v[i]);
            store(DH, i, beta * g[i] + hu * u[i] + hv * v[i]);
            R e = load(G, i);
            dweight[i] += e * (alpha * u[i] + beta * v[i]);
            dbias[i] += e;
          }
        } else {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) {
            store(DX, i, xg * g[i] + xu * u[i] + xv * v[i]);
            store(DH, i, beta * g[i] + hu * u[i] + hv * v[i]);
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
