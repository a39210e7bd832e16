#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "core/files/file_io.h"
#include "core/files/little_endian.h"
#include "core/files/zip.h"
#include "isthmus/identify.h"

namespace isthmus {
namespace {

namespace fs = std::filesystem;

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
  const auto names = detail::list_zip_names(file, size);
  if (names.empty()) {
    return make("truncated_zip", path, "a zip archive without its directory (truncated?)",
                "copy it again; its size now is " + std::to_string(size) + " bytes");
  }
  // Records are usually in one top folder, which is named after the file.
  const auto any = [&](auto&& test) {
    return std::any_of(names.begin(), names.end(), [&](std::string_view name) {
      return test(name.substr(name.find('/') + 1), name);
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
    return make(
        "aoti", path, "an AOTInductor package, which is native code",
        "if you trust it as you would a program, make a bundle from it with `isthmus adopt " +
            path + " --trust native --inputs example.npz -o BUNDLE`");
  }
  if (has("constants.pkl") && has("data.pkl")) {
    return make(
        "torchscript", path, "a bare TorchScript archive",
        "make a bundle from it with `isthmus adopt " + path + " --inputs example.npz -o BUNDLE`");
  }
  if (beneath("models/") || has("serialized_exported_program.json")) {
    return make(
        "exported_program", path, "a bare program saved by torch.export.save",
        "make a bundle from it with `isthmus adopt " + path + " --inputs example.npz -o BUNDLE`");
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
  const auto head = detail::read_at(file, 0, 16);
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
  // torch.save before 1.6 begins with the pickled number 0x1950a86a20f9469cfc6c.
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
  if (starts("\177ELF")) return make("shared_library", path, "a native library or program", "");
  if (starts("GGUF")) return make("gguf", path, "a GGUF file of weights for llama.cpp", "");
  // An ONNX file is a protobuf message that begins with its version: field 1, a small number.
  if (head.size() > 2 && head[0] == std::byte{8} && head[1] > std::byte{0} &&
      head[1] < std::byte{64}) {
    return make(
        "onnx", path, "an ONNX file",
        "make a bundle from it with `isthmus adopt " + path + " --inputs example.npz -o BUNDLE`");
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
    // Bundle::open reports a manifest that is a link or cannot be read.
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
