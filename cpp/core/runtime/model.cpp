#include "isthmus/model.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <mutex>

#include "core/bundle/methods.h"
#include "core/bundle/proofs.h"
#include "core/proof/special_proof.h"
#include "core/runtime/background_warmup.h"
#include "core/runtime/checked_call.h"
#include "core/runtime/engine_limits.h"
#include "core/runtime/recorder.h"
#include "core/runtime/select_engine.h"
#include "core/runtime/transfer.h"
#include "core/runtime/warmup.h"
#include "core/text.h"
#include "core/timing/clock.h"
#include "isthmus/error.h"
#include "isthmus/verify.h"

namespace isthmus {
namespace {

using detail::Clock;
using detail::ms_since;

/// The files of an artifact. Those of the methods are verified; data files are mapped, and verified
/// while the engine loads them.
struct FilesRead {
  std::vector<FileBytes> files;
  std::future<void> verified;  ///< of the data files; not valid without any
  double ms = 0;
};

FilesRead read_files(const Bundle& bundle, const Artifact* artifact, bool mmap) {
  const auto start = Clock::now();
  const std::size_t methods = bundle.manifest().methods.size();
  FilesRead read;
  std::vector<std::pair<FileEntry, FileBytes>> data;
  for (std::size_t i = 0; i < artifact->files.size(); ++i) {
    const FileEntry& file = artifact->files[i];
    if (!mmap) {
      read.files.push_back(bundle.read(file));
    } else if (i >= methods) {
      read.files.push_back(bundle.map(file));
      data.emplace_back(file, read.files.back());
    } else {
      const bool archive = artifact->format == "torchscript" || artifact->format == "exported";
      read.files.push_back(archive ? bundle.map_archive(file) : bundle.read(file));
    }
  }
  if (!data.empty())
    read.verified = std::async(std::launch::async, [bundle, data] {
      for (const auto& [file, bytes] : data) bundle.verify(file, bytes);
    });
  read.ms = ms_since(start);
  return read;
}

std::size_t method_index(const Manifest& manifest, std::string_view method) {
  return detail::method_index(manifest, method, "the model");
}

/// Names tensors for a record. Tensors beyond the signature, which the call refuses, get their
/// index.
NamedTensors named(const std::vector<ValueSpec>& specs, std::span<const Tensor> tensors) {
  NamedTensors result;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    result.add(i < specs.size() ? specs[i].name : std::to_string(i), tensors[i]);
  return result;
}

/// Adds the values that a call left in the inputs that it writes, for a record.
NamedTensors with_written(const Signature& signature, NamedTensors outputs,
                          const NamedTensors& inputs) {
  for (const std::size_t written : signature.writes) {
    const std::string& name = signature.inputs[written].name;
    if (const Tensor* buffer = inputs.find(name)) outputs.add(detail::written_name(name), *buffer);
  }
  return outputs;
}

/// Seconds after which a call in a proof is stopped, on engines that can.
constexpr double kProofTimeout = 600;

EngineProof proof_of(const ParityResult& result, const ProofKey& key) {
  return {.engine = key.engine,
          .device = key.device,
          .runtime = key.runtime,
          .passed = result.passed(),
          .reason = result.failure()};
}

/// Runs the goldens and returns the verdict, with the special values on which the engine differs.
EngineProof prove(const Model& model, const ProofKey& key) {
  EngineProof proof =
      proof_of(verify(model, {}, {.timeout = model.can_stop() ? kProofTimeout : 0}), key);
  if (proof.passed) detail::add_limits(model, proof);
  return proof;
}

/// Returns `LoadReport::proof` for an engine that is taken without a new proof.
std::string proof_text(const EngineSelection& selected, const Manifest& manifest) {
  const std::string with = " with " + selected.key.runtime;
  if (selected.verdict && selected.verdict->proof.passed)
    return "proven" + with + ", " + selected.verdict->origin;
  if (selected.verdict)
    return "taken although it FAILED" + with + " (" + selected.verdict->origin +
           "): " + selected.verdict->proof.reason;
  if (manifest.goldens.empty()) return "not proven: the bundle has no goldens to prove it on";
  return "not proven" + with + ": taken because unproven is \"allow\"";
}

}  // namespace

struct Model::Impl {
  Bundle bundle;
  const Artifact* artifact = nullptr;
  ProofKey key;
  EngineProof proof;  ///< on which the engine was taken; `passed` is false when there is none
  Device device;
  LoadReport report;
  /// The report with the warm-up, complete when `warmed` is true; null without a warm-up in the
  /// background.
  std::unique_ptr<LoadReport> warm_report;
  std::atomic<bool> warmed{false};
  /// The executable as it was loaded. With state it is only forked, so that forks are fresh.
  std::unique_ptr<Executable> executable;
  /// Runs the model's own calls when there is state; null otherwise.
  std::unique_ptr<Executable> shared_state;
  mutable std::mutex state_mutex;
  std::unique_ptr<const Recorder> recorder;  ///< null unless calls are recorded
  /// The last member, because it uses the others and must end before they are destroyed.
  std::unique_ptr<BackgroundWarmup> background;
  const pid_t process = ::getpid();

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (::getpid() == process) return;
    // In a forked process. The runtime's threads are in the parent, and joining them would block.
    (void)background.release();
    (void)executable.release();
    (void)shared_state.release();
  }

  /// The methods with the values that the engine is not proven on; empty when it has no limits.
  std::vector<Signature> limited;
  std::vector<detail::SignatureCheck> checks;  ///< of each method's calls

  [[nodiscard]] const Manifest& manifest() const noexcept { return bundle.manifest(); }
  /// Prepares the checks of the methods, which are those of the manifest or the limited ones.
  void prepare_checks() {
    const std::vector<Signature>& methods = limited.empty() ? manifest().methods : limited;
    checks = std::vector<detail::SignatureCheck>(methods.begin(), methods.end());
  }

  /// Selects an artifact and an engine, loads them, and reports it.
  EngineSelection load_selected(const LoadOptions& options, const Tuning& tuning,
                                const Proofs& proofs);

  void warm_up_in_background() {
    warm_report = std::make_unique<LoadReport>(report);
    background = std::make_unique<BackgroundWarmup>([this](const std::atomic<bool>& stop) {
      const auto start = Clock::now();
      warm_report->warmup = warm_up(bundle, *artifact, *executable, device, stop);
      warm_report->warmup_ms = ms_since(start);
      for (std::string& note : executable->notes())
        if (std::find(report.notes.begin(), report.notes.end(), note) == report.notes.end())
          warm_report->notes.push_back(std::move(note));
      warmed = true;
    });
  }

  mutable std::atomic<std::int64_t> sessions{0};  ///< created so far; they count from 1

  /// Runs a call and records it. `inputs()` and `outputs(result)` return named tensors.
  template <typename Run, typename Given, typename Results>
  auto recorded(std::string_view method, std::int64_t session, const Run& run, const Given& inputs,
                const Results& outputs) const {
    return recorder == nullptr ? run() : record(method, session, run, inputs, outputs);
  }

  template <typename Call>
  auto with_executable(const Call& call) const {
    std::unique_lock<std::mutex> lock;
    if (shared_state) lock = std::unique_lock(state_mutex);
    return call(shared_state ? *shared_state : *executable);
  }

 private:
  template <typename Run, typename Given, typename Results>
  auto record(std::string_view method, std::int64_t session, const Run& run, const Given& inputs,
              const Results& outputs) const {
    const auto to_cpu = [this](const Tensor& tensor) {
      return executable->transfer(tensor, Device{});
    };
    Recorder::Call call = recorder->start(method, session, inputs(), to_cpu);
    try {
      auto result = run();
      recorder->finish(std::move(call), outputs(result), to_cpu);
      return result;
    } catch (const std::exception& error) {
      recorder->fail(std::move(call), error);
      throw;
    }
  }
};

struct Session::Impl {
  std::shared_ptr<const Model::Impl> model;
  std::unique_ptr<Executable> own;  ///< null for a stateless model, which shares
  std::int64_t number = 0;          ///< counts from 1

  [[nodiscard]] Executable& executable() const { return own ? *own : *model->executable; }
};

Model::Model(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

EngineSelection Model::Impl::load_selected(const LoadOptions& options, const Tuning& tuning,
                                           const Proofs& proofs) {
  // Those of an engine that failed its proof.
  shared_state.reset();
  executable.reset();
  // Reading and hashing the files takes about as long as opening a runtime, so both run at once.
  const Artifact* likely = likely_artifact(manifest(), options, device, tuning, proofs);
  std::future<FilesRead> reading;
  if (likely != nullptr)
    reading = std::async(std::launch::async, read_files, std::cref(bundle), likely, options.mmap);
  EngineSelection selected = select_engine(manifest(), options, device, tuning, proofs);
  LoadOptions settled = options;
  if (settled.threads == 0) settled.threads = selected.threads;
  settled.op_libraries = op_libraries_of(*selected.artifact, options);
  artifact = selected.artifact;
  key = selected.key;

  FilesRead read = selected.artifact == likely
                       ? reading.get()
                       : read_files(bundle, selected.artifact, options.mmap);
  ArtifactSource source{manifest(), *selected.artifact, std::move(read.files), bundle.root()};
  report.read_ms = read.ms;

  const auto phase = Clock::now();
  try {
    executable = selected.engine->load(source, settled);
  } catch (const Error&) {
    // A changed data file is the more likely cause, and gives the better message.
    if (read.verified.valid()) read.verified.get();
    throw;
  }
  source.files.clear();
  if (read.verified.valid()) read.verified.get();
  if (manifest().stateful) shared_state = executable->fork();
  report.load_ms = ms_since(phase);

  report.engine = selected.engine_name;
  report.runtime = selected.engine->info().runtime;
  report.artifact = selected.artifact->name;
  report.device = to_string(device);
  report.chosen = selected.reason;
  report.threads = settled.threads;
  report.op_libraries = std::move(settled.op_libraries);
  return selected;
}

Model Model::load(const std::filesystem::path& bundle, const LoadOptions& options) {
  const auto start = Clock::now();
  if (options.threads < 0)
    throw InvalidInput("threads " + std::to_string(options.threads) +
                       ": expected a positive number, or 0 to leave the process as it is");
  const Device device = parse_device(options.device);
  auto impl = std::make_shared<Impl>();
  impl->bundle = Bundle::open(bundle);
  impl->device = device;
  const Manifest& manifest = impl->manifest();
  const Tuning tuning = read_tuning(impl->bundle, device.type);
  Proofs proofs(impl->bundle);
  std::string origin;
  // Each turn proves an engine that was never tried. One that fails is refused in the next turn.
  for (bool taken = false; !taken;) {
    const EngineSelection selected = impl->load_selected(options, tuning, proofs);
    impl->prepare_checks();
    if (selected.verdict) impl->proof = selected.verdict->proof;
    origin = selected.verdict ? selected.verdict->origin : "on this machine";
    impl->report.proof = proof_text(selected, manifest);
    taken = selected.verdict || options.unproven != Unproven::kProve || manifest.goldens.empty();
    if (taken) continue;
    const auto phase = Clock::now();
    impl->proof = prove(Model(impl), impl->key);
    impl->sessions = 0;  // those of the proof do not count
    const double ms = ms_since(phase);
    const std::string not_written = proofs.add(*impl->artifact, impl->key, impl->proof);
    taken = impl->proof.passed;
    if (!taken) continue;
    impl->report.proof = "proven with " + impl->key.runtime + " now, on " +
                         std::to_string(manifest.goldens_of(*impl->artifact).size()) +
                         " goldens in " + std::to_string(static_cast<int>(ms)) + " ms";
    if (!not_written.empty())
      impl->report.notes.push_back(not_written + ", so the next load proves " + impl->key.engine +
                                   " again");
  }
  LoadReport& report = impl->report;
  if (const auto limits = impl->proof.limits(); !limits.empty()) {
    const bool refuses = options.specials == Specials::kRefuse;
    if (refuses) impl->limited = detail::with_limits(manifest, impl->proof, origin);
    for (const std::string& limit : limits)
      report.notes.push_back(impl->key.engine + " is " + limit +
                             (refuses ? ": other values are refused (specials)" : ""));
  }
  if (!impl->artifact->sizes.empty()) {
    if (impl->limited.empty()) impl->limited = manifest.methods;
    detail::narrow_sizes(manifest, *impl->artifact, impl->limited);
    report.notes.push_back(impl->artifact->name + " serves " + impl->artifact->sizes_text() +
                           " only: others are refused");
  }
  impl->prepare_checks();
  auto phase = Clock::now();
  if (options.warmup && !options.warmup_in_background) {
    phase = Clock::now();
    const std::atomic<bool> never = false;
    report.warmup = warm_up(impl->bundle, *impl->artifact, *impl->executable, device, never);
    report.warmup_ms = ms_since(phase);
  }
  if (options.op_libraries.empty())
    for (const std::filesystem::path& library : report.op_libraries)
      report.notes.push_back("custom operators are those of " + library.string());
  for (std::string& note : impl->executable->notes()) report.notes.push_back(std::move(note));
  if (!proofs.note().empty()) report.notes.push_back(proofs.note());
  if (!impl->proof.passed) report.notes.push_back(report.proof);
  // After the warm-up, whose calls are not recorded.
  if (!options.record.empty())
    impl->recorder = std::make_unique<Recorder>(options.record, options.record_limit, impl->bundle,
                                                impl->report);
  report.total_ms = ms_since(start);
  if (options.warmup && options.warmup_in_background) impl->warm_up_in_background();
  return Model(std::move(impl));
}

bool Model::ready() const {
  return !impl_->background || impl_->background->over();
}

void Model::wait_until_ready() const {
  if (impl_->background) impl_->background->wait();
}

std::string Model::describe_selection(const Bundle& bundle, const LoadOptions& options) {
  const Device device = parse_device(options.device);
  const EngineSelection selected = select_engine(bundle.manifest(), options, device,
                                                 read_tuning(bundle, device.type), Proofs(bundle));
  const std::string threads =
      selected.threads == 0 ? "" : ", threads: " + std::to_string(selected.threads);
  const bool proves = !selected.verdict && options.unproven == Unproven::kProve &&
                      !bundle.manifest().goldens.empty();
  return selected.artifact->name + " on " + selected.engine_name + threads + ": " +
         selected.reason + "; " +
         (proves ? "not proven with " + selected.key.runtime + " yet, the first load proves it"
                 : proof_text(selected, bundle.manifest()));
}

Outputs Model::run(const Inputs& inputs, const RunOptions& options) const {
  return call("forward", inputs, options);
}

Outputs Model::call(std::string_view method, const Inputs& inputs,
                    const RunOptions& options) const {
  const std::size_t index = method_index(impl_->manifest(), method);
  // Recorded under the lock, so that the records of a shared state are in the order of its calls.
  return impl_->with_executable([&](Executable& executable) {
    return impl_->recorded(
        method, 0,
        [&] {
          return detail::call_named(executable, impl_->checks[index], index, inputs, impl_->device,
                                    options);
        },
        [&] { return inputs; },
        [&](const Outputs& outputs) {
          return with_written(impl_->manifest().methods[index], outputs, inputs);
        });
  });
}

std::vector<Tensor> Model::run_ordered(std::span<Tensor> inputs, std::size_t method,
                                       const RunOptions& options) const {
  const auto& checks = impl_->checks;
  if (method >= checks.size())
    throw InvalidInput("method index " + std::to_string(method) + ": the model has " +
                       std::to_string(checks.size()) + " methods, counted from 0");
  const Signature& signature = checks[method].signature();
  return impl_->with_executable([&](Executable& executable) {
    return impl_->recorded(
        signature.method, 0,
        [&] {
          return detail::call_in_order(executable, checks[method], method, inputs, impl_->device,
                                       options);
        },
        [&] { return named(signature.inputs, inputs); },
        [&](const std::vector<Tensor>& outputs) {
          return with_written(signature, named(signature.outputs, outputs),
                              named(signature.inputs, inputs));
        });
  });
}

Tensor Model::transfer(const Tensor& tensor, Device device) const {
  return impl_->executable->transfer(tensor, device);
}

Inputs Model::transfer_inputs(const Inputs& inputs, std::string_view method) const {
  if (device().is_cpu()) return inputs;
  const Signature& signature = this->signature(method);
  std::vector<Tensor> ordered = check_inputs(signature, inputs, Device{});
  detail::transfer_tensors(signature, ordered,
                           [this](const Tensor& tensor) { return transfer(tensor, device()); });
  return named(signature.inputs, ordered);
}

void Model::synchronize() const {
  impl_->executable->synchronize();
}

Session Model::session() const {
  auto session = std::make_unique<Session::Impl>();
  session->model = impl_;
  session->number = ++impl_->sessions;
  if (impl_->shared_state) session->own = impl_->executable->fork();
  return Session(std::move(session));
}

const Signature& Model::signature(std::string_view method) const {
  return impl_->checks[method_index(impl_->manifest(), method)].signature();
}

std::vector<std::string> Model::methods() const {
  std::vector<std::string> names;
  for (const Signature& signature : impl_->manifest().methods) names.push_back(signature.method);
  return names;
}

bool Model::stateful() const noexcept {
  return impl_->manifest().stateful;
}
bool Model::can_stop() const noexcept {
  return impl_->executable->can_stop();
}
Device Model::device() const noexcept {
  return impl_->device;
}
const Bundle& Model::bundle() const noexcept {
  return impl_->bundle;
}
const Artifact& Model::artifact() const noexcept {
  return *impl_->artifact;
}
const LoadReport& Model::load_report() const noexcept {
  return impl_->warmed ? *impl_->warm_report : impl_->report;
}

std::string remember(const Model& model, const ParityResult& result) {
  const Model::Impl& impl = *model.impl_;
  Proofs proofs(impl.bundle);
  const auto known = proofs.find(*impl.artifact, impl.key);
  if ((known && known->proof.passed == result.passed()) || result.goldens.empty()) return "";
  EngineProof proof = proof_of(result, impl.key);
  if (proof.passed) detail::add_limits(model, proof);
  return proofs.add(*impl.artifact, impl.key, std::move(proof));
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

Outputs Session::run(const Inputs& inputs, const RunOptions& options) {
  return call("forward", inputs, options);
}

Outputs Session::call(std::string_view method, const Inputs& inputs, const RunOptions& options) {
  if (!impl_)
    throw InvalidInput(
        "this session was moved from and holds nothing: use the one it was moved to");
  const Manifest& manifest = impl_->model->manifest();
  const std::size_t index = method_index(manifest, method);
  return impl_->model->recorded(
      method, impl_->number,
      [&] {
        return detail::call_named(impl_->executable(), impl_->model->checks[index], index, inputs,
                                  impl_->model->device, options);
      },
      [&] { return inputs; },
      [&](const Outputs& outputs) {
        return with_written(manifest.methods[index], outputs, inputs);
      });
}

}  // namespace isthmus
