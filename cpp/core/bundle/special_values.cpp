#include "core/bundle/special_values.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <type_traits>

namespace isthmus::detail {
namespace {

constexpr double kLarge = 0x1p62;

/// The layout of a floating-point type, whose bits are read as signed integers: without the sign
/// bit, their order is that of the magnitudes.
template <typename Bits, int kMantissa>
struct Format {
  using Type = Bits;
  static constexpr Bits kMagnitude = std::numeric_limits<Bits>::max();
  static constexpr Bits kNegativeZero = std::numeric_limits<Bits>::min();
  static constexpr int kExponentBits = static_cast<int>(sizeof(Bits)) * 8 - 1 - kMantissa;
  static constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  static constexpr Bits kInfinity =
      static_cast<Bits>(((Bits{1} << kExponentBits) - 1) << kMantissa);
  static constexpr Bits kLeastNormal = static_cast<Bits>(Bits{1} << kMantissa);

  static constexpr Bits magnitude(Bits bits) { return static_cast<Bits>(bits & kMagnitude); }

  /// Returns the largest finite number that is not larger than `value`, which is not negative.
  static Bits below(double value) {
    if (value <= 0) return 0;
    const int exponent = std::ilogb(value);
    if (exponent > kBias) return static_cast<Bits>(kInfinity - 1);
    if (exponent <= -kBias) return 0;
    const double mantissa = std::floor(std::ldexp(value, kMantissa - exponent));
    return static_cast<Bits>((static_cast<std::int64_t>(exponent + kBias - 1) << kMantissa) +
                             static_cast<std::int64_t>(mantissa));
  }
  static double value_of(Bits bits) {
    const Bits magnitude = Format::magnitude(bits);
    const double sign = bits < 0 ? -1 : 1;
    if (magnitude > kInfinity) return std::numeric_limits<double>::quiet_NaN();
    if (magnitude == kInfinity) return sign * std::numeric_limits<double>::infinity();
    const auto exponent = static_cast<int>(static_cast<std::int64_t>(magnitude) >> kMantissa);
    const auto mantissa = static_cast<double>(magnitude & (kLeastNormal - 1));
    const double one = exponent == 0 ? 0 : std::ldexp(1.0, kMantissa);
    return sign * std::ldexp(one + mantissa, std::max(exponent, 1) - kBias - kMantissa);
  }
};

/// The magnitudes that a limit refuses.
template <typename F>
struct Bands {
  using Bits = typename F::Type;
  std::uint8_t specials;
  Bits high = F::kMagnitude;  ///< those above; may be too low by what is refused exactly
  Bits most = F::kMagnitude;  ///< the largest number that is allowed
  Bits low_begin = 0;
  Bits low_end = 0;  ///< those from `low_begin` to before this

  explicit Bands(const EngineLimit& limit) : specials(limit.specials) {
    if (limit.values)
      most = F::below(std::min(-static_cast<double>(limit.values->min),
                               static_cast<double>(limit.values->max)));
    else if ((specials & kSpecialLarge) != 0)
      most = F::below(kLarge);
    if (most < F::kInfinity) specials |= kSpecialLarge;
    if ((specials & kSpecialNaN) != 0) high = F::kInfinity;
    if ((specials & kSpecialInfinity) != 0) high = static_cast<Bits>(F::kInfinity - 1);
    if ((specials & kSpecialLarge) != 0) high = std::min(high, most);
    if ((specials & (kSpecialZero | kSpecialDenormal)) != 0) {
      low_begin = (specials & kSpecialZero) != 0 ? 0 : 1;
      low_end = (specials & kSpecialDenormal) != 0 ? F::kLeastNormal : 1;
    }
  }

  /// Returns the kind of one element when it is refused, else 0.
  [[nodiscard]] std::uint8_t refused(Bits bits) const {
    const Bits magnitude = F::magnitude(bits);
    std::uint8_t kind = 0;
    if (magnitude > F::kInfinity)
      kind = kSpecialNaN;
    else if (magnitude == F::kInfinity)
      kind = kSpecialInfinity;
    else if (magnitude > most)
      kind = kSpecialLarge;
    else if (magnitude == 0 && (specials & kSpecialZero) != 0)
      kind = kSpecialZero;
    else if (bits == F::kNegativeZero)
      kind = kSpecialNegativeZero;
    else if (magnitude > 0 && magnitude < F::kLeastNormal)
      kind = kSpecialDenormal;
    return static_cast<std::uint8_t>(kind & specials);
  }
};

// The loops below read each element once and have no early exit, so that they are vectorised. They
// are compiled for wider registers too, and the processor decides at run time. ThreadSanitizer
// crashes in that decision, which is made before the sanitizer has started.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && \
    !defined(__SANITIZE_THREAD__)
#define ISTHMUS_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define ISTHMUS_WIDE
#endif

template <typename Bits, typename Test>
[[gnu::always_inline]] inline bool any(const Bits* data, std::int64_t count, Test test) {
  Bits found = 0;
  for (std::int64_t i = 0; i < count; ++i)
    found = static_cast<Bits>(found | (test(data[i]) ? -1 : 0));
  return found != 0;
}

/// Defines the loops for a type of bits:
/// any_above(data, count, high)       a magnitude is above `high`
/// any_within(data, count, low, end)  a magnitude is from `low` to before `end`
/// any_equal(data, count, bits)       an element has these bits
#define ISTHMUS_LOOPS(Bits)                                                                       \
  ISTHMUS_WIDE bool any_above(const Bits* data, std::int64_t count, Bits high) {                  \
    constexpr Bits kMagnitude = std::numeric_limits<Bits>::max();                                 \
    return any(data, count, [high](Bits x) { return static_cast<Bits>(x & kMagnitude) > high; }); \
  }                                                                                               \
  ISTHMUS_WIDE bool any_within(const Bits* data, std::int64_t count, Bits low, Bits end) {        \
    constexpr Bits kMagnitude = std::numeric_limits<Bits>::max();                                 \
    return any(data, count, [low, end](Bits x) {                                                  \
      const Bits magnitude = static_cast<Bits>(x & kMagnitude);                                   \
      return static_cast<int>(magnitude >= low) & static_cast<int>(magnitude < end);              \
    });                                                                                           \
  }                                                                                               \
  ISTHMUS_WIDE bool any_equal(const Bits* data, std::int64_t count, Bits bits) {                  \
    return any(data, count, [bits](Bits x) { return x == bits; });                                \
  }
ISTHMUS_LOOPS(std::int16_t)
ISTHMUS_LOOPS(std::int32_t)
ISTHMUS_LOOPS(std::int64_t)

/// Returns true when an element may be refused. Most limits need one loop.
template <typename F>
bool may_refuse(const typename F::Type* data, std::int64_t count, const Bands<F>& bands) {
  if (bands.high != F::kMagnitude && any_above(data, count, bands.high)) return true;
  if (bands.low_end > bands.low_begin && any_within(data, count, bands.low_begin, bands.low_end))
    return true;
  return (bands.specials & kSpecialNegativeZero) != 0 && any_equal(data, count, F::kNegativeZero);
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  std::array<char, 32> text{};
  return {text.data(),
          static_cast<std::size_t>(std::snprintf(text.data(), text.size(), "%.9g", value))};
}

std::string kind_text(std::uint8_t kind, double most) {
  switch (kind) {
    case kSpecialNaN:
      return "NaN";
    case kSpecialInfinity:
      return "infinities";
    case kSpecialZero:
      return "zeros";
    case kSpecialNegativeZero:
      return "negative zeros";
    case kSpecialDenormal:
      return "denormal numbers";
    default:
      return "numbers beyond " + number(most);
  }
}

template <typename F>
std::optional<FoundSpecial> find(const Tensor& tensor, const EngineLimit& limit) {
  const Bands<F> bands(limit);
  const auto* data = static_cast<const typename F::Type*>(tensor.data());
  const std::int64_t count = tensor.numel();
  if (!may_refuse(data, count, bands)) return std::nullopt;
  for (std::int64_t i = 0; i < count; ++i)
    if (const std::uint8_t kind = bands.refused(data[i]); kind != 0)
      return FoundSpecial{i, number(F::value_of(data[i])),
                          kind_text(kind, F::value_of(bands.most))};
  return std::nullopt;
}

}  // namespace

std::optional<FoundSpecial> find_special(const Tensor& tensor, const EngineLimit& limit) {
  switch (tensor.dtype()) {
    case DType::kFloat16:
      return find<Format<std::int16_t, 10>>(tensor, limit);
    case DType::kBFloat16:
      return find<Format<std::int16_t, 7>>(tensor, limit);
    case DType::kFloat32:
      return find<Format<std::int32_t, 23>>(tensor, limit);
    case DType::kFloat64:
      return find<Format<std::int64_t, 52>>(tensor, limit);
    default:
      return std::nullopt;
  }
}

}  // namespace isthmus::detail
