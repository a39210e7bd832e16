#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/bundle/signature_check.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// Joins requests of one method into one call, and splits its outputs, according to the signature.
class BatchPlan {
 public:
  /// A request with checked inputs.
  struct Request {
    std::vector<Tensor> inputs;  ///< in the signature's order, undefined where absent
    std::int64_t rows = 1;
    std::int64_t length = 1;
    std::string kind;  ///< requests can be joined when they have the same kind
  };

  /// @param padding  values by input name
  /// @throws InvalidInput for a padding value of an unknown input, or that its dtype cannot hold.
  BatchPlan(const Signature& signature, const std::map<std::string, double>& padding);

  /// Return whether requests can be joined and padded, and the reasons when they cannot.
  [[nodiscard]] bool batches() const noexcept { return no_batching_.empty(); }
  [[nodiscard]] bool pads() const noexcept { return batches() && no_padding_.empty(); }
  [[nodiscard]] const std::string& no_batching() const noexcept { return no_batching_; }
  [[nodiscard]] const std::string& no_padding() const noexcept { return no_padding_; }
  void forbid_padding(std::string why) { no_padding_ = std::move(why); }

  /// Returns the largest number of rows of one call.
  [[nodiscard]] std::int64_t most_rows() const;
  /// Returns the largest length of one call.
  [[nodiscard]] std::int64_t most_length() const;

  /// Checks inputs against the signature. @throws InvalidInput.
  [[nodiscard]] Request prepare(const Inputs& inputs) const;

  /// Returns the inputs of one call, padded to `length`.
  /// @throws InvalidInput when the dtype of an input can be padded with 0 only.
  [[nodiscard]] std::vector<Tensor> join(std::span<const Request* const> requests,
                                         std::int64_t length) const;

  /// Returns the outputs of each request, without padding.
  [[nodiscard]] std::vector<Outputs> split(std::span<const Tensor> outputs,
                                           std::span<const Request* const> requests) const;

 private:
  void read(const Signature& signature);

  const Signature* signature_;
  detail::SignatureCheck check_;
  std::vector<double> padding_;  ///< in the order of the signature's inputs
  std::string batch_;            ///< name of the batch dimension; empty: none
  std::string length_;           ///< name of the padded dimension; empty: none
  std::string no_batching_;
  std::string no_padding_;
};

}  // namespace isthmus
