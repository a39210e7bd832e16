// The time that a call's check for special values adds, for small and large inputs of each float
// type, beside the time of copying the same memory. Prints one line for each size.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <memory>
#include <vector>

#include "isthmus/signature.h"

namespace {

using namespace isthmus;

constexpr int kTurns = 21;
constexpr double kBytesPerTurn = 1 << 28;

/// Returns the median time of a call in nanoseconds.
template <typename Call>
double time_of(std::size_t bytes, Call call) {
  using Clock = std::chrono::steady_clock;
  const int calls =
      static_cast<int>(std::clamp(kBytesPerTurn / static_cast<double>(bytes), 1.0, 20000.0));
  std::vector<double> turns;
  for (int turn = 0; turn < kTurns; ++turn) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    turns.push_back(std::chrono::duration<double, std::nano>(Clock::now() - start).count() / calls);
  }
  std::nth_element(turns.begin(), turns.begin() + kTurns / 2, turns.end());
  return turns[kTurns / 2];
}

Signature signature_of(DType dtype, std::uint8_t specials) {
  Signature signature;
  ValueSpec spec;
  spec.name = "x";
  spec.dtype = dtype;
  if (specials != 0) {
    EngineLimit limit;
    limit.specials = specials;
    spec.limit = std::make_shared<const EngineLimit>(std::move(limit));
  }
  signature.inputs.push_back(std::move(spec));
  return signature;
}

}  // namespace

int main() {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64})
    for (const std::int64_t bytes : {64, 4096, 1 << 16, 1 << 20, 1 << 24, 1 << 26}) {
      const auto size = static_cast<std::size_t>(bytes);
      const Tensor tensor =
          Tensor::empty(dtype, {bytes / static_cast<std::int64_t>(size_of(dtype))});
      std::memset(tensor.data(), 0x3C, size);
      std::vector<std::byte> copy(size);
      const auto check = [&](std::uint8_t specials) {
        const Signature signature = signature_of(dtype, specials);
        std::vector<Tensor> inputs{tensor};
        return time_of(size, [&] { check_inputs(signature, std::span<Tensor>(inputs), {}); });
      };
      const double without = check(0);
      const double copied = time_of(size, [&] {
        std::memcpy(copy.data(), tensor.data(), size);
        asm volatile("" : : "r"(copy.data()) : "memory");
      });
      std::cout << name(dtype) << ", " << bytes << " bytes: copying takes " << copied
                << " ns; the check adds " << check(kSpecialNaN) - without << " ns for NaN, "
                << check(63) - without << " ns for all kinds\n";
    }
  return 0;
}
