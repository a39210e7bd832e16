#include "core/runtime/recorder.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/files/file_io.h"
#include "core/timing/clock.h"
#include "isthmus/error.h"
#include "isthmus/model.h"
#include "isthmus/tensor_file.h"

namespace isthmus {
namespace {

using Json = nlohmann::json;
using detail::Clock;

void write_text(const std::filesystem::path& path, const std::string& text) {
  try {
    detail::write_file(path, std::array{std::as_bytes(std::span(text))}, {.sync = false});
  } catch (const detail::IoError& error) {
    throw InvalidInput(path.string() + ": cannot be written: " + error.what());
  }
}

// Includes the time, because a container's process may have the same number each time it starts.
std::string time_and_process() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", &utc);
  return text + ("-" + std::to_string(::getpid()));
}

// Creates a file. Returns false when it exists, and is another recorder's.
bool create(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
  if (file < 0) {
    if (errno == EEXIST) return false;
    throw InvalidInput("record: " + path.string() +
                       " cannot be written: " + std::generic_category().message(errno) +
                       "; give a folder that can be written");
  }
  ::close(file);
  return true;
}

std::string digits(std::int64_t number) {
  char text[24];
  std::snprintf(text, sizeof text, "%06lld", static_cast<long long>(number));
  return text;
}

// The copies have their own memory, because a model may write to its inputs, and the caller may use
// its buffers again.
void add_copies(NamedTensors& into, const std::string& prefix, const NamedTensors& tensors,
                const Recorder::ToCpu& to_cpu) {
  for (const auto& [name, tensor] : tensors)
    if (tensor.defined())
      into.add(prefix + name, (tensor.device().is_cpu() ? tensor : to_cpu(tensor)).clone());
}

// Describes the inputs as the caller gave them, which the stored copies no longer show.
std::string facts_of(const NamedTensors& inputs) {
  Json facts = Json::object();
  for (const auto& [name, tensor] : inputs) {
    if (!tensor.defined()) {
      facts[name] = nullptr;
      continue;
    }
    facts[name] = {{"dtype", std::string(isthmus::name(tensor.dtype()))},
                   {"shape", tensor.shape()},
                   {"strides", tensor.strides()},
                   {"device", to_string(tensor.device())}};
  }
  return facts.dump();
}

}  // namespace

Recorder::Recorder(std::filesystem::path folder, std::int64_t limit, const Bundle& bundle,
                   const LoadReport& report)
    : folder_(std::move(folder)), limit_(limit) {
  if (limit_ < 1)
    throw InvalidInput("record_limit " + std::to_string(limit_) + ": expected 1 or more calls");
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error || !std::filesystem::is_directory(folder_))
    throw InvalidInput("record: the folder " + folder_.string() + " cannot be made" +
                       (error ? ": " + error.message() : ", it is a file") +
                       "; give a folder that can be written");
  Json digests = Json::array();
  for (const Artifact& artifact : bundle.manifest().artifacts)
    if (artifact.name == report.artifact)
      for (const FileEntry& file : artifact.files) digests.push_back(file.sha256);
  const Json facts{{"schema", "isthmus-record"},
                   {"schema_version", 1},
                   {"bundle", std::filesystem::absolute(bundle.root()).string()},
                   {"name", bundle.manifest().name},
                   {"engine", report.engine},
                   {"runtime", report.runtime},
                   {"artifact", report.artifact},
                   {"sha256", digests},
                   {"device", report.device},
                   {"threads", report.threads},
                   {"stateful", bundle.manifest().stateful},
                   {"pid", static_cast<std::int64_t>(::getpid())}};
  const std::string base = time_and_process();
  stem_ = base;
  for (int i = 2; !create(folder_ / ("record-" + stem_ + ".json")); ++i)
    stem_ = base + "-" + std::to_string(i);
  write_text(folder_ / ("record-" + stem_ + ".json"), facts.dump(2) + "\n");
}

Recorder::Call Recorder::start(std::string_view method, std::int64_t session,
                               const NamedTensors& inputs, const ToCpu& to_cpu) const {
  Call call;
  const std::int64_t number = calls_++;
  if (number >= limit_) {
    if (number == limit_)
      std::cerr << "isthmus: " << limit_ << " calls are recorded in " << folder_.string()
                << ", and no more will be (record_limit)\n";
    return call;
  }
  try {
    call.method = method;
    call.facts = facts_of(inputs);
    call.session = session;
    call.number = number;
    add_copies(call.tensors, "0/in/", inputs, to_cpu);
  } catch (const std::exception& error) {
    call.number = -1;
    complain(error.what());
  }
  call.start = Clock::now();
  return call;
}

void Recorder::finish(Call call, const NamedTensors& outputs, const ToCpu& to_cpu) const {
  if (call.number < 0) return;
  try {
    add_copies(call.tensors, "0/out/", outputs, to_cpu);
  } catch (const std::exception& error) {
    return complain(error.what());
  }
  write(call, "");
}

void Recorder::fail(Call call, const std::exception& error) const {
  call.refused = dynamic_cast<const InvalidInput*>(&error) != nullptr;
  if (call.number >= 0) write(call, error.what());
}

void Recorder::write(Call& call, const std::string& error) const {
  const double ms = detail::ms_since(call.start);
  try {
    const std::string name = stem_ + "-" + digits(call.number);
    write_safetensors(folder_ / (name + ".safetensors"), call.tensors);
    Json facts{{"method", call.method},
               {"session", call.session},
               {"milliseconds", ms},
               {"error", nullptr},
               {"refused", call.refused}};
    facts["inputs"] = Json::parse(call.facts);
    if (!error.empty()) facts["error"] = error;
    // Written last, so that a record without its facts is known to be unfinished.
    write_text(folder_ / (name + ".json"),
               facts.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } catch (const std::exception& failure) {
    complain(failure.what());
  }
}

void Recorder::complain(const std::string& why) const {
  if (complaints_++ == 0)
    std::cerr << "isthmus: a call could not be recorded in " << folder_.string() << ": " << why
              << " (the call itself goes on; this is reported once)\n";
}

}  // namespace isthmus
