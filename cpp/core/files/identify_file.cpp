#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "core/files/file_io.h"
#include "core/files/little_endian.h"
#include "isthmus/bundle.h"

namespace isthmus {
namespace {

namespace fs = std::filesystem;

/// Up to `size` bytes from `offset`, fewer at the end of the file.
std::vector<std::byte> peek(const detail::Descriptor& file, std::uint64_t offset,
                            std::size_t size) {
  std::vector<std::byte> bytes(size);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count =
        ::pread(file.get(), bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    done += static_cast<std::size_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

// Names in a zip's directory, read leniently: a guess at what a file is, not a check of it.
std::vector<std::string> zip_names(const detail::Descriptor& file, std::uint64_t size) {
  constexpr std::size_t kEnd = 22, kMaxComment = 65535, kMaxDirectory = 64u << 20;
  const std::size_t tail_size = std::min<std::uint64_t>(size, kEnd + kMaxComment);
  const auto tail = peek(file, size - tail_size, tail_size);
  std::vector<std::string> names;
  for (std::size_t at = tail.size() < kEnd ? 0 : tail.size() - kEnd + 1; at-- > 0;) {
    if (detail::load_le<std::uint32_t>(tail, at) != 0x06054b50) continue;
    const auto directory_size = detail::load_le<std::uint32_t>(tail, at + 12);
    const auto offset = detail::load_le<std::uint32_t>(tail, at + 16);
    // A full offset (zip64): the directory of any archive that needs it lies before its two
    // records.
    const std::uint64_t end = size - tail.size() + at;
    const std::uint64_t start =
        offset == 0xffffffff && end >= directory_size + 76u ? end - 76 - directory_size : offset;
    const auto directory = peek(file, start, std::min<std::size_t>(directory_size, kMaxDirectory));
    std::size_t entry = 0;
    while (detail::within(entry, 46, directory.size()) &&
           detail::load_le<std::uint32_t>(directory, entry) == 0x02014b50) {
      const std::size_t name = detail::load_le<std::uint16_t>(directory, entry + 28);
      const std::size_t rest = detail::load_le<std::uint16_t>(directory, entry + 30) +
                               detail::load_le<std::uint16_t>(directory, entry + 32);
      if (!detail::within(entry + 46, name, directory.size())) break;
      names.emplace_back(reinterpret_cast<const char*>(directory.data()) + entry + 46, name);
      entry += 46 + name + rest;
    }
    break;
  }
  return names;
}

IdentifiedFile make(const char* kind, const std::string& path, const std::string& what,
                    const std::string& todo) {
  return {kind, path + " is " + what + (todo.empty() ? "." : ": " + todo + ".")};
}

std::string export_hint() {
  return "load it in Python into the model it belongs to, and write a bundle with `isthmus export "
         "package.module:factory -o BUNDLE`";
}

IdentifiedFile identify_zip(const detail::Descriptor& file, std::uint64_t size,
                            const std::string& path) {
  const auto names = zip_names(file, size);
  if (names.empty()) {
    return make("truncated_zip", path, "a zip archive without its directory (truncated?)",
                "copy it again; its size now is " + std::to_string(size) + " bytes");
  }
  // Entries lie beneath one top folder, named after the file.
  const auto any = [&](auto&& test) {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      const std::size_t slash = name.find('/');
      return test(slash == std::string::npos ? std::string_view(name)
                                             : std::string_view(name).substr(slash + 1),
                  std::string_view(name));
    });
  };
  const auto has = [&](std::string_view wanted) {
    return any([&](auto inner, auto) { return inner == wanted; });
  };
  const auto beneath = [&](std::string_view folder) {
    return any([&](auto inner, auto whole) {
      return inner.starts_with(folder) || whole.starts_with(folder);
    });
  };
  if (beneath("data/aotinductor/")) {
    return make("aoti", path, "an AOTInductor package, which is native code",
                "make a bundle from the model it was compiled from, with `isthmus export "
                "package.module:factory -o BUNDLE`");
  }
  if (has("constants.pkl") && has("data.pkl")) {
    return make(
        "torchscript", path, "a bare TorchScript archive",
        "make a bundle from it with `isthmus adopt " + path + " --inputs example.npz -o BUNDLE`");
  }
  if (beneath("models/") || has("serialized_exported_program.json")) {
    return make("exported_program", path, "a program saved by torch.export.save",
                "export the model it was made from with `isthmus export package.module:factory -o "
                "BUNDLE`");
  }
  if (has("data.pkl")) {
    return make(
        "state_dict", path,
        "a file that torch.save wrote (a state dict or a pickled module): weights without a "
        "program that C++ could run",
        export_hint());
  }
  if (any([](auto, auto whole) { return whole.ends_with(".npy"); })) {
    return make(
        "npz", path, "a NumPy archive of arrays",
        "it can be the example for `isthmus adopt model.pt --inputs " + path + " -o BUNDLE`");
  }
  if (has("manifest.json") || any([](auto, auto whole) { return whole == "manifest.json"; })) {
    return make("zipped_bundle", path, "a zipped folder with a manifest, perhaps a bundle",
                "unpack it, and open the folder");
  }
  return make("zip", path, "a zip archive of no kind that isthmus knows", "");
}

IdentifiedFile identify_regular_file(const fs::path& file_path) {
  const std::string path = file_path.string();
  const detail::Descriptor file = detail::open_file(file_path);
  const std::uint64_t size = fs::file_size(file_path);
  if (size == 0) {
    return make("empty", path, "an empty file", "whatever wrote it did not finish; make it again");
  }
  const auto head = peek(file, 0, 16);
  const auto starts = [&](std::string_view magic, std::size_t at = 0) {
    return head.size() >= at + magic.size() &&
           std::memcmp(head.data() + at, magic.data(), magic.size()) == 0;
  };
  if (starts("PK\x03\x04") || starts("PK\x05\x06")) return identify_zip(file, size, path);
  if (starts("PTMF", 4)) {
    return make("torchscript_flatbuffer", path, "a TorchScript flatbuffer for mobile devices",
                "save the module with torch.jit.save instead, and run `isthmus adopt`");
  }
  if (starts("ET", 4)) {
    return make("executorch", path, "an ExecuTorch program",
                "isthmus takes the model it was made "
                "from: `isthmus export package.module:factory -o BUNDLE`");
  }
  // torch.save before 1.6: the pickled number 0x1950a86a20f9469cfc6c stands first.
  if (starts("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")) {
    return make("state_dict", path,
                "a file in torch.save's old format (a state dict or a pickled module): weights "
                "without a program that C++ could run",
                export_hint());
  }
  if (head.size() >= 2 && head[0] == std::byte{0x80} && head[1] >= std::byte{2} &&
      head[1] <= std::byte{5}) {
    return make("pickle", path, "a Python pickle, which runs code when it is loaded",
                "load it only if you trust it, and write a bundle with `isthmus export`");
  }
  if (head.size() >= 9 && head[8] == std::byte{'{'} &&
      detail::load_le<std::uint64_t>(head, 0) <= size - 8) {
    return make("safetensors", path, "a safetensors file: tensors without a program",
                export_hint());
  }
  if (starts("\x7f"
             "ELF")) {
    return make("shared_library", path, "a native library or program", "");
  }
  if (starts("GGUF")) return make("gguf", path, "a GGUF file of weights for llama.cpp", "");
  // ONNX is a protobuf message that starts with its version: field 1, a small number.
  if (head.size() > 2 && head[0] == std::byte{8} && head[1] > std::byte{0} &&
      head[1] < std::byte{64}) {
    return make("onnx", path, "an ONNX file",
                "make a bundle from the model it was converted from, with `isthmus export "
                "package.module:factory -o BUNDLE`");
  }
  if (file_path.filename() == "manifest.json") {
    return make("manifest", path, "a bundle's manifest", "open the folder that holds it");
  }
  return make("unknown", path, "a file of no kind that isthmus knows",
              "a bundle is a folder, written by `isthmus export` or `isthmus adopt`");
}

}  // namespace

IdentifiedFile identify_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  const std::string text = path.string();
  if (!fs::exists(status)) {
    return {"missing", "There is nothing at \"" + text +
                           "\": check the spelling; `isthmus export MODEL -o BUNDLE` writes a "
                           "bundle there."};
  }
  if (fs::is_directory(status)) {
    // Also when it is a link or unreadable: then Bundle::open says so.
    if (fs::exists(fs::symlink_status(path / "manifest.json", error))) {
      return make("bundle", text, "a bundle", "");
    }
    if (fs::exists(path / "config.json", error)) {
      return make("huggingface", text,
                  "a folder without manifest.json, perhaps a Hugging Face model",
                  "make a bundle from it with `isthmus export " + text + " -o BUNDLE`");
    }
    return make("directory", text, "a folder without manifest.json",
                "a bundle is the folder that `isthmus export MODEL -o BUNDLE` wrote");
  }
  if (!fs::is_regular_file(status)) return make("special", text, "no regular file", "");
  try {
    return identify_regular_file(path);
  } catch (const detail::IoError& fault) {
    return make("unreadable", text,
                std::string("a file that cannot be read (") + fault.what() + ")", "");
  } catch (const fs::filesystem_error& fault) {
    return make("unreadable", text, "a file that cannot be read (" + fault.code().message() + ")",
                "");
  }
}

}  // namespace isthmus
