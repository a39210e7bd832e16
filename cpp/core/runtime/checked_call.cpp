#include "core/runtime/checked_call.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "core/bundle/methods.h"
#include "core/runtime/effects.h"
#include "core/text.h"
#include "core/timing/clock.h"
#include "isthmus/error.h"

namespace isthmus::detail {
namespace {

std::string shapes_text(const Signature& signature, std::span<const Tensor> inputs) {
  std::size_t i = 0;
  return joined(inputs, [&](const Tensor& input) {
    return signature.inputs[i++].name + "=" + input.describe();
  });
}

/// Runs a call with `RunOptions::timeout`.
std::vector<Tensor> execute_within(Executable& executable, std::size_t method,
                                   std::span<const Tensor> inputs, double seconds) {
  using std::chrono::duration;
  constexpr double kLongest = 1e9;  // of which the clock's time can still be computed
  if (!(seconds > 0))
    throw InvalidInput("timeout " + std::to_string(seconds) +
                       ": expected a positive number of seconds, or 0 for no limit");
  if (!executable.can_stop())
    throw InvalidInput(
        "timeout: this engine cannot stop a call that has begun; load the bundle on an engine that "
        "can (docs/engines.md), or call without a timeout in a process of its own");
  return executable.run_within(method, inputs,
                               Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                  duration<double>(std::min(seconds, kLongest))));
}

/// Runs the engine on checked inputs. @throws ExecutionError for any error of the engine.
std::vector<Tensor> execute(Executable& executable, const Signature& signature, std::size_t method,
                            std::span<const Tensor> inputs, const RunOptions& options) try {
  return options.timeout == 0 ? executable.run(method, inputs)
                              : execute_within(executable, method, inputs, options.timeout);
} catch (const Error&) {
  throw;
} catch (const std::exception& error) {
  throw ExecutionError("\"" + signature.method + "\" failed in the engine: " + error.what() +
                       " (inputs: " + shapes_text(signature, inputs) +
                       "); run `isthmus-run verify` on the bundle to see whether it is whole");
}

/// Checks the outputs of an engine, and makes them independent of the inputs and of each other.
void take_outputs(Executable& executable, const SignatureCheck& check,
                  std::span<const Tensor> inputs, const DimensionSizes& sizes,
                  const RunOptions& options, std::vector<Tensor>& outputs) {
  if (options.check_outputs) check.check_outputs(outputs, sizes);
  separate_outputs(executable, inputs, outputs);
}

/// Runs a method that writes inputs.
/// @param given   as the caller gave them
/// @param inputs  with copies of those that are not contiguous
std::vector<Tensor> call_writing(Executable& executable, const SignatureCheck& check,
                                 std::size_t method, std::span<const Tensor> given,
                                 std::span<Tensor> inputs, Device device,
                                 const RunOptions& options) {
  const Signature& signature = check.signature();
  DimensionSizes sizes = check.no_sizes();
  check.check_inputs(inputs, device, sizes);
  const std::vector<Tensor> buffers = written_buffers(signature, given);
  std::vector<Tensor> outputs = execute(executable, signature, method, inputs, options);
  const std::vector<Tensor> written = take_written(signature, inputs, outputs);
  take_outputs(executable, check, inputs, sizes, options, outputs);
  write_back(executable, written, buffers);
  return outputs;
}

}  // namespace

std::vector<Tensor> call_in_order(Executable& executable, const SignatureCheck& check,
                                  std::size_t method, std::span<Tensor> inputs, Device device,
                                  const RunOptions& options) {
  const Signature& signature = check.signature();
  if (!signature.writes.empty()) {
    std::vector<Tensor> copies(inputs.begin(), inputs.end());
    return call_writing(executable, check, method, inputs, copies, device, options);
  }
  DimensionSizes sizes = check.no_sizes();
  check.check_inputs(inputs, device, sizes);
  std::vector<Tensor> outputs = execute(executable, signature, method, inputs, options);
  check_result_count(signature, outputs.size());
  take_outputs(executable, check, inputs, sizes, options, outputs);
  return outputs;
}

Outputs call_named(Executable& executable, const SignatureCheck& check, std::size_t method,
                   const Inputs& inputs, Device device, const RunOptions& options) {
  std::vector<Tensor> ordered = check.in_order(inputs);
  std::vector<Tensor> results = call_in_order(executable, check, method, ordered, device, options);
  Outputs outputs;
  outputs.reserve(results.size());
  for (std::size_t i = 0; i < results.size(); ++i)
    outputs.add(check.signature().outputs[i].name, std::move(results[i]));
  return outputs;
}

}  // namespace isthmus::detail
