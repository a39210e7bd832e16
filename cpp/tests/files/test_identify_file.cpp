#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "isthmus/identify.h"
#include "tests/bundle_writer.h"
#include "tests/zip_writer.h"

using namespace isthmus;
using namespace isthmus::testing;

namespace {

const std::vector<ZipRecord> kTorchScript{{.name = "m/data.pkl", .data = "x"},
                                          {.name = "m/constants.pkl", .data = "x"},
                                          {.name = "m/code/__torch__.py", .data = "x"},
                                          {.name = "m/version", .data = "10\n"}};

struct Fixture {
  TemporaryFolder folder;

  [[nodiscard]] std::string kind(const std::string& content) const {
    write_text(folder.path() / "file", content);
    const IdentifiedFile file = identify_file(folder.path() / "file");
    CHECK_FALSE(file.advice.empty());
    return file.kind;
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a bundle and other folders") {
  write_bundle(folder.path() / "bundle");
  CHECK(identify_file(folder.path() / "bundle").kind == "bundle");
  CHECK(identify_file(folder.path()).kind == "directory");
  CHECK(identify_file(folder.path() / "nowhere").kind == "missing");
}

TEST_CASE_FIXTURE(Fixture, "zip archives are identified by the names of their records") {
  CHECK(kind(ZipWriter::write(kTorchScript)) == "torchscript");
  CHECK(kind(ZipWriter::write({{.name = "m/data.pkl", .data = "x"},
                               {.name = "m/data/0", .data = "x"},
                               {.name = "m/version", .data = "3\n"}})) == "state_dict");
  CHECK(kind(ZipWriter::write({{.name = "m/data/aotinductor/model/x.so", .data = "x"}})) == "aoti");
  CHECK(kind(ZipWriter::write({{.name = "x.npy", .data = "x"}})) == "npz");
  CHECK(kind(ZipWriter::write({{.name = "b/manifest.json", .data = "x"}})) == "zipped_bundle");
  CHECK(kind(ZipWriter::write({{.name = "x.txt", .data = "x"}})) == "zip");
}

TEST_CASE_FIXTURE(Fixture, "archives that the loader refuses are identified too") {
  CHECK(kind(ZipWriter::write(kTorchScript, "", "a comment")) == "torchscript");
  auto zip = kTorchScript;
  zip[0].extra = std::string("UT\x01\x00x", 5);  // as the zip program writes it
  CHECK(kind(ZipWriter::write(zip)) == "torchscript");
}

TEST_CASE_FIXTURE(Fixture, "damaged archives are identified as such, or by what is left") {
  const std::string whole = ZipWriter::write(kTorchScript);
  CHECK(kind(whole.substr(0, whole.size() - 30)) == "truncated_zip");
  for (std::size_t size = 0; size < whole.size(); ++size) (void)kind(whole.substr(0, size));
}

TEST_CASE_FIXTURE(Fixture, "other files are identified by their first bytes") {
  CHECK(kind("") == "empty");
  CHECK(kind("\x80\x02K\x01.") == "pickle");
  CHECK(kind(std::string("\x02\0\0\0\0\0\0\0{}", 10)) == "safetensors");
  CHECK(kind("\x7f"
             "ELF") == "shared_library");
  CHECK(kind("GGUF") == "gguf");
  CHECK(kind("\x08\x0a\x12\x00") == "onnx");
  CHECK(kind("hello") == "unknown");
}
