#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "isthmus/device.h"
#include "isthmus/dtype.h"
#include "isthmus/export.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// The Python type of a value. In C++ every value is a Tensor. Scalars are 0-dimensional tensors:
/// kInteger is int64, kFloating is float64, kBoolean is bool.
enum class ValueKind : std::uint8_t { kTensor, kInteger, kFloating, kBoolean };

class SizeExpression;

/// One size of a shape: fixed, a named dimension, derived from named dimensions, or unknown
/// (outputs only).
struct Dim {
  /// Not empty: a named dimension, or what is computed from several, such as "past + sequence".
  std::string name;
  std::int64_t size = -1;  ///< fixed size when `name` is empty; -1: unknown
  /// `name` as it is computed at each call; null where it is the name of one dimension.
  std::shared_ptr<const SizeExpression> expression{};
  friend bool operator==(const Dim& a, const Dim& b) {
    return a.size == b.size && a.name == b.name;
  }
};

/// The inclusive range of a named dimension.
struct DimRange {
  std::int64_t min = 1;
  std::int64_t max = 1;
  std::vector<std::int64_t> sizes{};  ///< not empty: the only sizes allowed, in increasing order
  /// In the signature of a loaded model, where the artifact serves fewer sizes than the model: what
  /// to do about others. Empty elsewhere.
  std::string advice{};

  /// Returns true for a size that the dimension may have.
  [[nodiscard]] ISTHMUS_API bool allows(std::int64_t size) const;
  /// Returns "1 to 64", or the sizes of a list, "2 or 4 to 9".
  [[nodiscard]] ISTHMUS_API std::string text() const;
};

/// The inclusive range of the values of an integer input.
struct ValueRange {
  std::int64_t min = 0;
  std::int64_t max = 0;
  /// Bounds that depend on the sizes of a call, such as "nodes - 1"; null where `min` or `max` is
  /// the bound.
  std::shared_ptr<const SizeExpression> min_expression{};
  std::shared_ptr<const SizeExpression> max_expression{};
};

/// A kind of special values of floating-point numbers. Kinds are combined with `|`.
enum Special : std::uint8_t {
  kSpecialNaN = 1,
  kSpecialInfinity = 2,
  kSpecialZero = 4,          ///< zeros of both signs
  kSpecialNegativeZero = 8,  ///< -0.0 only
  kSpecialDenormal = 16,
  kSpecialLarge = 32,  ///< beyond `EngineLimit::values`, else beyond 2^62
};

/// The values of an input with which an engine gave other answers than the model when it was
/// proven. They are refused unless LoadOptions::specials allows them.
struct EngineLimit {
  std::string engine;                  ///< "openvino"
  std::string origin;                  ///< when it was proven: "at export"
  std::string advice;                  ///< "use torchscript, or load with specials=allow"
  std::uint8_t specials = 0;           ///< kinds of `Special` that are refused; floating point only
  std::optional<ValueRange> values{};  ///< numbers outside of this range are refused
};

/// The type of an input or output.
struct ValueSpec {
  std::string name;
  ValueKind kind = ValueKind::kTensor;
  DType dtype = DType::kFloat32;
  std::optional<std::vector<Dim>> shape;  ///< nullopt: any rank
  bool optional = false;                  ///< may be absent (an undefined Tensor; None in Python)
  /// The range of an integer tensor that indexes a table of the model, such as token ids. Outside
  /// of it, engines give wrong answers or end the process. nullopt: any value.
  std::optional<ValueRange> values = std::nullopt;
  /// The limits of the engine, in the signature of a loaded model; null: it has none.
  std::shared_ptr<const EngineLimit> limit{};
};

/// The nested structure of a call's arguments or results in Python, with values as leaves.
struct Tree {
  enum class Kind : std::uint8_t {
    kLeaf,   ///< `name` is the name of an input or output
    kNone,   ///< None
    kConst,  ///< a constant; `text` is its JSON
    kList,
    kTuple,
    kDict,         ///< `keys` and `items`, in order
    kNamedTuple,   ///< `type`, `keys` and `items`
    kDataclass,    ///< the same members as kNamedTuple
    kModelOutput,  ///< a Hugging Face ModelOutput; the same members as kNamedTuple
    kPytree        ///< an object of another class: `text` is the JSON of what it has beside `items`
  };
  using Key = std::variant<std::string, std::int64_t>;

  Kind kind = Kind::kNone;
  std::string name;
  std::string text;
  std::string type;
  std::vector<Key> keys;
  std::vector<Tree> items;
};

/// Sizes of named dimensions and values of scalar inputs that a method serves together.
struct ServedCase {
  std::map<std::string, std::int64_t, std::less<>> sizes;
  std::map<std::string, double, std::less<>> numbers;  ///< a bool is 0 or 1
};

/// The inputs and outputs of a method.
struct Signature {
  std::string method = "forward";
  std::vector<ValueSpec> inputs;
  std::vector<ValueSpec> outputs;
  /// Indices of the inputs that a call changes in place, in increasing order: tensors whose memory
  /// has other values after the call.
  std::vector<std::size_t> writes{};
  std::vector<Tree> args;                             ///< positional arguments in Python
  std::vector<std::pair<std::string, Tree>> kwargs;   ///< keyword arguments in Python
  Tree returns;                                       ///< the result in Python
  std::map<std::string, DimRange, std::less<>> dims;  ///< ranges of the named dimensions
  /// The combinations of sizes and numbers that are served; empty: every combination is.
  std::vector<ServedCase> served{};

  /// Returns a text such as "forward(input_ids: int64[batch, sequence]) -> (...)", with the written
  /// inputs and the combinations that are served at the end.
  [[nodiscard]] ISTHMUS_API std::string describe() const;
};

/// Checks inputs against a signature: names, kinds, dtypes, ranks, fixed sizes, ranges of named
/// dimensions and their equality in all inputs, sizes and bounds that are derived from them,
/// combinations of sizes and numbers that are served, devices, null data, and the ranges of values
/// on the CPU. Values on a GPU are not read, because that would wait for it. Non-contiguous CPU
/// tensors are copied.
/// @param device  the device of the model; scalars are on the CPU
/// @returns the tensors in the signature's order; absent optional inputs are undefined
/// @throws InvalidInput with the input, what was expected, what was given, and what to do.
ISTHMUS_API std::vector<Tensor> check_inputs(const Signature& signature, const Inputs& inputs,
                                             Device device);

/// The same for tensors in the signature's order. Non-contiguous ones are replaced in `inputs`.
ISTHMUS_API void check_inputs(const Signature& signature, std::span<Tensor> inputs, Device device);

/// Checks the outputs of an engine: number, dtypes, ranks, fixed sizes, and named and derived
/// dimensions, whose sizes follow from `inputs`. A dimension that no given input has is not
/// checked.
/// @throws ExecutionError with the output.
ISTHMUS_API void check_outputs(const Signature& signature, std::span<const Tensor> inputs,
                               std::span<const Tensor> outputs);

}  // namespace isthmus
