#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/bundle/size_expression.h"
#include "isthmus/device.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::detail {

/// The sizes that the named dimensions of a method have in one call. Names are counted as in the
/// method's SignatureCheck; the sizes of the first ones are stored without an allocation.
class DimensionSizes {
 public:
  struct Entry {
    std::int64_t size;         ///< -1: unknown
    const std::string* input;  ///< name of the first input that has the dimension
    bool solved;               ///< follows from an expression, because no axis has the name alone

    [[nodiscard]] bool known() const noexcept { return size >= 0; }
  };

  explicit DimensionSizes(std::size_t names)
      : others_(names - std::min(names, first_.size()), kUnknown) {
    std::fill_n(first_.begin(), names - others_.size(), kUnknown);
  }

  Entry& operator[](std::size_t name) noexcept {
    return name < first_.size() ? first_[name] : others_[name - first_.size()];
  }
  const Entry& operator[](std::size_t name) const noexcept {
    return name < first_.size() ? first_[name] : others_[name - first_.size()];
  }

 private:
  static constexpr Entry kUnknown{-1, nullptr, false};
  std::array<Entry, 16> first_;
  std::vector<Entry> others_;
};

/// The checks of one method's calls. What follows from the signature alone is found out once, so
/// that a call compares numbers and looks up no name.
///
/// Thread safety: it never changes; all members may be called at once.
class SignatureCheck {
 public:
  /// @param signature  must outlive this
  explicit SignatureCheck(const Signature& signature);

  [[nodiscard]] const Signature& signature() const noexcept { return *signature_; }
  /// Returns the sizes of a call that is not checked yet.
  [[nodiscard]] DimensionSizes no_sizes() const { return DimensionSizes(names_.size()); }

  /// Returns inputs in the signature's order, not checked otherwise.
  /// @throws InvalidInput for a name that the signature does not have, or that is given twice.
  [[nodiscard]] std::vector<Tensor> in_order(const Inputs& inputs) const;

  /// Checks a call as isthmus::check_inputs does, and sets the sizes of its named dimensions.
  /// @param sizes  as `no_sizes` returns them
  void check_inputs(std::span<Tensor> inputs, Device device, DimensionSizes& sizes) const;

  /// Sets the sizes of the named dimensions of inputs that are checked already.
  void read_sizes(std::span<const Tensor> inputs, DimensionSizes& sizes) const;

  /// Checks outputs as isthmus::check_outputs does.
  /// @param sizes  of the call's inputs
  void check_outputs(std::span<const Tensor> outputs, const DimensionSizes& sizes) const;

 private:
  /// A named dimension.
  struct Name {
    const std::string* text;
    const DimRange* range;  ///< null: any size
  };
  /// An expression, and the names that it computes with.
  struct Computed {
    const SizeExpression* expression;
    std::vector<std::size_t> names;  ///< in the order of SizeExpression::names
  };
  struct Axis {
    enum class Kind : std::uint8_t { kAny, kFixed, kNamed, kComputed };
    Kind kind;
    std::int64_t size;  ///< kFixed; -1 in others
    std::size_t index;  ///< kNamed: of the name; kComputed: of the expression in Value::computed
  };
  /// What is known of an input or output beside its ValueSpec.
  struct Value {
    std::vector<Axis> axes;  ///< empty for any rank
    std::vector<Computed> computed;
    std::optional<Computed> min;  ///< the bounds that are expressions
    std::optional<Computed> max;
    bool computes = false;  ///< there is an expression
  };

  std::size_t index_of(const std::string& name);
  Computed computed(const SizeExpression& expression);
  Value value(const ValueSpec& spec);

  void check_input(std::size_t input, Tensor& tensor, Device device, DimensionSizes& sizes) const;
  void check_shape(std::size_t input, const Tensor& tensor, Device device,
                   DimensionSizes& sizes) const;
  void for_each_computed(std::span<const Tensor> inputs, auto&& function) const;
  void solve_names(std::span<const Tensor> inputs, DimensionSizes& sizes) const;
  void check_expressions(std::span<const Tensor> inputs, Device device,
                         DimensionSizes& sizes) const;
  void check_computed_range(std::size_t input, const Tensor& tensor,
                            const DimensionSizes& sizes) const;
  void check_computed_sizes(std::span<const Tensor> outputs, const DimensionSizes& sizes) const;

  const Signature* signature_;
  std::vector<Name> names_;
  std::vector<Value> inputs_;
  std::vector<Value> outputs_;
};

}  // namespace isthmus::detail
