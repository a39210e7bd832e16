#include "engines/torch/libtorch_executable.h"

#include <c10/core/InferenceMode.h>

#include <utility>

#include "engines/call_gate.h"
#include "engines/torch/in_call.h"
#include "engines/torch/tensor_convert.h"
#include "engines/torch/torch_formats.h"
#include "engines/torch/transfer.h"
#include "isthmus/error.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

struct Shared {
  explicit Shared(LibtorchSetup given) : setup(std::move(given)), gate(setup.concurrency) {}

  LibtorchSetup setup;
  CallGate gate;
};

class LibtorchExecutable final : public Executable {
 public:
  LibtorchExecutable(std::unique_ptr<LibtorchProgram> program, std::shared_ptr<Shared> shared)
      : program_(std::move(program)), shared_(std::move(shared)) {}

  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) override {
    const InCall in_call(shared_->gate, shared_->setup.device);
    if (shared_->setup.cuda->idle()) return launch(method, inputs);
    return shared_->setup.cuda->run(method, inputs,
                                    [&](auto given) { return launch(method, given); });
  }

  [[nodiscard]] bool prepares() const override { return shared_->setup.cuda->records(); }

  bool prepare(std::size_t method, std::span<const Tensor> inputs) override {
    const InCall in_call(shared_->gate, shared_->setup.device);
    return shared_->setup.cuda->prepare(method, shared_->setup.signatures[method], inputs,
                                        [&](auto given) { return launch(method, given); });
  }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<LibtorchExecutable>(program_->fork(), shared_);
  }

  Tensor transfer(const Tensor& tensor, Device device) override {
    return transfer_to(tensor, device);
  }

  Tensor copy(const Tensor& tensor) override {
    if (tensor.device().is_cpu()) return Executable::copy(tensor);
    const c10::InferenceMode no_gradients;
    return copy_of(tensor);
  }

  void write(const Tensor& values, const Tensor& buffer) override {
    if (buffer.device().is_cpu()) return Executable::write(values, buffer);
    const c10::InferenceMode no_gradients;
    to_torch(buffer).copy_(to_torch(values), /*non_blocking=*/true);
  }

  void synchronize() override { wait_for_device(shared_->setup.device); }

  [[nodiscard]] std::vector<std::string> notes() const override {
    std::vector<std::string> notes = shared_->setup.notes;
    for (std::string& note : shared_->setup.cuda->notes()) notes.push_back(std::move(note));
    return notes;
  }

 private:
  std::vector<Tensor> launch(std::size_t method, std::span<const Tensor> inputs) const {
    const Signature& signature = shared_->setup.signatures[method];
    try {
      return program_->launch(method, signature, inputs);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw ExecutionError("\"" + signature.method + "\" failed: " + model_error(error));
    }
  }

  // The order of the members is the order of destruction, reversed: CUDA graphs (in `shared_`)
  // refer to the weights, constants and kernels of the program, so the last executable frees its
  // graphs while it still holds the program. Composition guarantees that; a derived class that
  // owned the weights would be destroyed before the members of its base.
  std::unique_ptr<LibtorchProgram> program_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace

std::unique_ptr<Executable> make_executable(std::unique_ptr<LibtorchProgram> program,
                                            LibtorchSetup setup) {
  return std::make_unique<LibtorchExecutable>(std::move(program),
                                              std::make_shared<Shared>(std::move(setup)));
}

}  // namespace isthmus::torch_engine
