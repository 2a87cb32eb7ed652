// Random words, the same as everywhere: Threefry-2x32-20, as deepcore/ops/random.py says.
//
// A thread makes the two words of one counter. call_at is null, or points to the draw's number on the device.

struct Words { unsigned x0, x1; };

__device__ inline Words threefry_of(unsigned x0, unsigned x1, unsigned k0, unsigned k1)
{
    const unsigned keys[3] = {k0, k1, k0 ^ k1 ^ 0x1bd11bda};
    const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    x0 += k0;
    x1 += k1;
#pragma unroll
    for (int group = 0; group < 5; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int rotation = rotations[group % 2][i];
            x0 += x1;
            x1 = (x1 << rotation | x1 >> (32 - rotation)) ^ x0;
        }
        x0 += keys[(group + 1) % 3];
        x1 += keys[(group + 2) % 3] + group + 1;
    }
    return {x0, x1};
}

// keep(i, word) for words start to start + n - 1, i from 0
template <class F>
__device__ void each_word(long long n, long long start, long long k0, long long k1, const int* call_at, long long call,
                          F keep)
{
    const long long pair = start / 2 + (long long)blockIdx.x * blockDim.x + threadIdx.x, i = 2 * pair - start;
    if (i >= n) return;
    const Words words = threefry_of((unsigned)pair, call_at ? (unsigned)*call_at : (unsigned)call, (unsigned)k0,
                                    (unsigned)k1);
    if (i >= 0) keep(i, words.x0);
    if (i + 1 < n) keep(i + 1, words.x1);
}

#define KERNELS(T, NAME)                                                                                          \
    KERNEL threefry_##NAME(T* words, long long n, long long start, long long k0, long long k1, const T* call_at,  \
                           long long call)                                                                        \
    {                                                                                                             \
        each_word(n, start, k0, k1, call_at, call, [=](long long i, unsigned word) { words[i] = (T)word; });      \
    }                                                                                                             \
    KERNEL at_least_##NAME(unsigned char* mask, long long n, long long start, long long k0, long long k1,        \
                            const T* call_at, long long call, long long least)                                    \
    {                                                                                                             \
        each_word(n, start, k0, k1, call_at, call,                                                                \
                  [=](long long i, unsigned word) { mask[i] = (word >> 8) >= least; });                           \
    }
