// Transposing in vector registers, shared by block copies and the multiply.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace mtia {

// 16 x 16 elements transposed in vectors: rows of 16 come `from_row` bytes apart and go `to_row` bytes apart.
constexpr int kSide = 16;
template <class V, int S, size_t... I> inline void exchange_halves(V& a, V& b, std::index_sequence<I...>) {
    V x = __builtin_shufflevector(a, b, (int)(I & S ? (I ^ S) + kSide : I)...);
    b = __builtin_shufflevector(a, b, (int)(I & S ? I + kSide : I ^ S)...);
    a = x;
}

template <class V, int S> inline void exchange_rows(V* row) {  // blocks of S x S change places across the diagonal
    for (int i = 0; i < kSide; ++i)
        if (!(i & S)) exchange_halves<V, S>(row[i], row[i + S], std::make_index_sequence<kSide>());
}

template <class T> void transpose_block(char* to, int64_t to_row, const char* from, int64_t from_row) {
    typedef T V __attribute__((vector_size(kSide * sizeof(T))));
    V row[kSide];
    for (int i = 0; i < kSide; ++i) std::memcpy(&row[i], from + i * from_row, sizeof(V));
    exchange_rows<V, 8>(row);
    exchange_rows<V, 4>(row);
    exchange_rows<V, 2>(row);
    exchange_rows<V, 1>(row);
    for (int i = 0; i < kSide; ++i) std::memcpy(to + i * to_row, &row[i], sizeof(V));
}

}  // namespace mtia
