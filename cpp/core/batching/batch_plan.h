#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// How requests of one method are put into one call, and its outputs taken apart again: read off
/// the signature.
class BatchPlan {
 public:
  /// A request that was checked.
  struct Request {
    std::vector<Tensor> inputs;  ///< in the signature's order, undefined where absent
    std::int64_t rows = 1;
    std::int64_t length = 1;
    std::string kind;  ///< only requests of one kind can be put together
  };

  /// @throws InvalidInput for a padding value of an unknown input.
  BatchPlan(const Signature& signature, const std::map<std::string, double>& padding);

  /// Whether requests can be put together, and whether they can be padded; else why not.
  [[nodiscard]] bool batches() const noexcept { return no_batching_.empty(); }
  [[nodiscard]] bool pads() const noexcept { return batches() && no_padding_.empty(); }
  [[nodiscard]] const std::string& no_batching() const noexcept { return no_batching_; }
  [[nodiscard]] const std::string& no_padding() const noexcept { return no_padding_; }
  void forbid_padding(std::string why) { no_padding_ = std::move(why); }

  /// Most rows of one call.
  [[nodiscard]] std::int64_t most_rows() const;
  /// Longest length of one call.
  [[nodiscard]] std::int64_t most_length() const;

  /// Checks inputs. @throws InvalidInput.
  [[nodiscard]] Request prepare(const Inputs& inputs) const;

  /// The inputs of one call, padded to `length`. @throws InvalidInput for a type without padding.
  [[nodiscard]] std::vector<Tensor> join(std::span<const Request* const> requests,
                                         std::int64_t length) const;

  /// Each request's own outputs, padding taken off.
  [[nodiscard]] std::vector<Outputs> split(std::span<const Tensor> outputs,
                                           std::span<const Request* const> requests) const;

 private:
  void read(const Signature& signature);

  const Signature* signature_;
  std::vector<double> padding_;  ///< by input
  std::string batch_;            ///< name of the dimension; empty: none
  std::string length_;
  std::string no_batching_;
  std::string no_padding_;
};

}  // namespace isthmus
