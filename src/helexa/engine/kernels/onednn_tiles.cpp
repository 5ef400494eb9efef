// Expands a matrix in the layout of lanes.py into bfloat16 numbers in oneDNN's order, see
// onednn_tiles.py. What stands in front of this text defines BITS, GROUP, ZERO, FINE, AFFINE and
// HALF_UNIT as in `Form`.
//
// A vector is 16 neighbouring rows of one column. One place of a word after the other, so that what
// scales a group stays in registers. Each number takes a mask, a conversion, and a multiplication
// and addition that round once: q · scale − zero · scale is what (q − zero) · scale is, for zero is
// a power of two.

#include <algorithm>
#include <cstdint>
#include <type_traits>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16, WORD_BITS = 32, PLACES = WORD_BITS / BITS;
constexpr int COARSE_WORDS = (PLACES + 1) / 2;  // of two float16 numbers each
constexpr int BLOCK_LANES = 4;  // of a block of oneDNN's, which has 64 rows
constexpr int BLOCK_ROWS = BLOCK_LANES * LANES;
constexpr int32_t HALF_BITS = 0x8FFFE000;
constexpr long GROUPS_AT_ONCE = 8;  // by one thread

// As they lie in memory, of which no alignment is asked.
#define VECTOR(type, bytes) __attribute__((vector_size(bytes), aligned(sizeof(type)), may_alias))
typedef float floats VECTOR(float, 64);
typedef int32_t ints VECTOR(int32_t, 64);
typedef uint32_t words VECTOR(uint32_t, 64);

template <typename T>
floats widened(const T* small) {
    typedef T smalls VECTOR(T, 16);
    return __builtin_convertvector(__builtin_convertvector(*(const smalls*)small, ints), floats);
}

floats half_of_word(const int32_t* joined, bool upper) {
    words both = *(const words*)joined;
    ints bits = (ints)(upper ? both : both << 16);
    return (floats)((bits >> 3) & HALF_BITS) * (float)HALF_UNIT;
}

// Words of two bfloat16 numbers, the first one lower. Ties to even, as torch rounds.
ints rounded_pair(floats first, floats second) {
#ifdef __AVX512BF16__
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (ints)_mm512_permutexvar_epi16(order, (__m512i)both);
#else
    words lower = (words)first, upper = (words)second;
    lower += ((lower >> 16) & 1) + 0x7FFF;
    upper += ((upper >> 16) & 1) + 0x7FFF;
    return (ints)((lower >> 16) | (upper & 0xFFFF0000));
#endif
}

// `Form.masked`, as float32.
template <int PLACE>
floats masked(const int32_t* source) {
    constexpr int SHIFT = PLACE * BITS;
    constexpr uint32_t MASK = (1u << BITS) - 1;
    words word = *(const words*)source;
    word = SHIFT + BITS == WORD_BITS ? word >> SHIFT : word & (MASK << SHIFT);
    return __builtin_convertvector((ints)word, floats);
}

template <int PLACE>
void expand_group(int32_t* out, const int32_t* source, floats scale, floats low) {
    constexpr int SHIFT = PLACE * BITS;
    if (SHIFT + BITS != WORD_BITS) scale *= 1.0f / (float)(1u << SHIFT);
#pragma GCC unroll 16
    for (int column = 0; column < GROUP; column += 2) {
        floats first = masked<PLACE>(source + column * LANES) * scale + low;
        floats second = masked<PLACE>(source + (column + 1) * LANES) * scale + low;
        *(ints*)(out + column / 2 * BLOCK_ROWS) = rounded_pair(first, second);
    }
}

template <typename T>
struct Factors {
    const int32_t* coarse;
    const T* fine;

    floats place(int index) const {
        floats found = half_of_word(coarse + index / 2 * LANES, index % 2);
        return FINE ? found * widened(fine + index * LANES) : found;
    }
};
typedef Factors<std::conditional_t<AFFINE, uint8_t, int8_t>> Scales;
typedef Factors<uint8_t> Offsets;

// A group of all places, from one on; row: of the first place, in 16 rows.
template <int PLACE = 0>
void expand_places(
    int32_t* out, long block, long row, const int32_t* source, Scales scales, Offsets offsets) {
    if constexpr (PLACE < PLACES) {
        floats scale = scales.place(PLACE);
        floats low = AFFINE ? offsets.place(PLACE) : scale * (float)-ZERO;
        long at = row + PLACE;
        int32_t* start = out + at / BLOCK_LANES * block + at % BLOCK_LANES * LANES;
        expand_group<PLACE>(start, source, scale, low);
        expand_places<PLACE + 1>(out, block, row, source, scales, offsets);
    }
}

}  // namespace

// block: words of a block of oneDNN's; wholes: coarse factors of a row.
extern "C" void expand(
    int32_t* out, long block, long blocks, long groups, long wholes, const int32_t* source,
    const int32_t* coarse, const void* fine, const int32_t* low_coarse, const void* low_fine) {
    const long chunks = (groups + GROUPS_AT_ONCE - 1) / GROUPS_AT_ONCE;
#pragma omp parallel for collapse(2) schedule(static)
    for (long index = 0; index < blocks; index++)
        for (long chunk = 0; chunk < chunks; chunk++) {
            const long stop = std::min(groups, (chunk + 1) * GROUPS_AT_ONCE);
            for (long group = chunk * GROUPS_AT_ONCE; group < stop; group++) {
                long at = index * groups + group;
                long whole = (index * wholes + group / (groups / wholes)) * COARSE_WORDS * LANES;
                long each = at * PLACES * LANES;
                Scales scales{coarse + whole, (decltype(Scales::fine))fine + each};
                Offsets offsets{low_coarse + whole, (const uint8_t*)low_fine + each};
                expand_places(
                    out + group * GROUP / 2 * BLOCK_ROWS, block, index * PLACES,
                    source + at * GROUP * LANES, scales, offsets);
            }
        }
}
