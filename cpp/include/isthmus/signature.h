#pragma once

#include <cstdint>
#include <map>
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

/// How Python saw the value; in C++ every value is a Tensor, scalars being 0-dimensional
/// (integer: int64, floating: float64, boolean: bool).
enum class ValueKind : std::uint8_t { kTensor, kInteger, kFloating, kBoolean };

/// One size of a shape: a fixed size, a named dimension, or unknown (outputs only).
struct Dim {
  std::string name;        ///< not empty: a named dimension
  std::int64_t size = -1;  ///< fixed size when `name` is empty; -1: unknown
  friend bool operator==(const Dim&, const Dim&) = default;
};

/// Inclusive range of a named dimension.
struct DimRange {
  std::int64_t min = 1;
  std::int64_t max = 1;
};

/// Inclusive range of the values of an integer input.
struct ValueRange {
  std::int64_t min = 0;
  std::int64_t max = 0;
};

/// One input or output.
struct ValueSpec {
  std::string name;
  ValueKind kind = ValueKind::kTensor;
  DType dtype = DType::kFloat32;
  std::optional<std::vector<Dim>> shape;  ///< nullopt: any rank
  bool optional = false;                  ///< may be absent (an undefined Tensor; None in Python)
  /// Of an integer tensor that indexes a table of the model, such as token ids: outside of it
  /// engines answer wrongly, or end the process. nullopt: any value.
  std::optional<ValueRange> values = std::nullopt;
};

/// The nesting of a call's arguments or results, as Python saw it, with values at the leaves.
struct Tree {
  enum class Kind : std::uint8_t {
    kLeaf,   ///< `name` is the name of an input or output
    kNone,   ///< None
    kConst,  ///< a constant; `text` is its JSON
    kList,
    kTuple,
    kDict,        ///< `keys` and `items`, in order
    kNamedTuple,  ///< `type`, `keys`, `items`
    kDataclass,   ///< as kNamedTuple
    kModelOutput  ///< as kNamedTuple; a Hugging Face ModelOutput
  };
  using Key = std::variant<std::string, std::int64_t>;

  Kind kind = Kind::kNone;
  std::string name;
  std::string text;
  std::string type;
  std::vector<Key> keys;
  std::vector<Tree> items;
};

/// What one method takes and gives.
struct Signature {
  std::string method = "forward";
  std::vector<ValueSpec> inputs;
  std::vector<ValueSpec> outputs;
  std::vector<Tree> args;                            ///< positional arguments, as in Python
  std::vector<std::pair<std::string, Tree>> kwargs;  ///< keyword arguments, in order
  Tree returns;
  std::map<std::string, DimRange, std::less<>> dims;  ///< ranges of the named dimensions

  /// "(input_ids: int64[batch, sequence], ...) -> (...)", for people.
  [[nodiscard]] ISTHMUS_API std::string describe() const;
};

/// Checks named inputs against a signature: names, kind, dtype, rank, fixed sizes, ranges, equal
/// named dimensions, device, null data, and the range of values of what lies on the CPU; makes
/// non-contiguous CPU tensors contiguous. Gives the tensors in the signature's order, undefined
/// ones for absent optional inputs. What lies on a GPU is not read: to do so would wait for it.
/// @throws InvalidInput naming the input, what was expected, what came, and what to do.
ISTHMUS_API std::vector<Tensor> check_inputs(const Signature& signature, const Inputs& inputs,
                                             Device device);

/// The same for tensors that are already in the signature's order; `inputs` is changed in place
/// where a tensor has to be made contiguous.
ISTHMUS_API void check_inputs(const Signature& signature, std::span<Tensor> inputs, Device device);

/// Checks what an engine gave back: count, dtype, rank, fixed and named sizes (sizes of named
/// dimensions come from `inputs`). The engine is at fault here.
/// @throws ExecutionError naming the output.
ISTHMUS_API void check_outputs(const Signature& signature, std::span<const Tensor> inputs,
                               std::span<const Tensor> outputs);

}  // namespace isthmus
