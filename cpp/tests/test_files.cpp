#include <doctest/doctest.h>
#include <sys/stat.h>

#include "bundle/stamps.hpp"
#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/cache.hpp"
#include "machine/files.hpp"
#include "machine/sha256.hpp"

using namespace ldm_engine;
namespace fs = std::filesystem;

TEST_CASE("sha256 is that of the standard") {
  CHECK(sha256_of_text("abc") ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_FALSE(sha256_of_file("/none"));
}

TEST_CASE("a new file never replaces another") {
  const TemporaryFolder folder;
  CHECK(write_new(folder.path(), "a", ".png", "1").filename() == "a.png");
  CHECK(write_new(folder.path(), "a", ".png", "2").filename() == "a-2.png");
  CHECK(write_new(folder.path(), "a", ".png", "3").filename() == "a-3.png");
  CHECK(read_whole(folder.path() / "a.png") == "1");
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 3);  // nothing is left over
  CHECK_THROWS_AS(write_new(folder.path() / "none", "a", ".png", "1"), OutputError);
}

TEST_CASE("files are read whole, or not at all") {
  const TemporaryFolder folder;
  const std::string content(200'000, 'x');
  write_atomically(folder.path() / "file", content);
  CHECK(read_whole(folder.path() / "file") == content);
  CHECK_FALSE(read_whole(folder.path()));
  CHECK_FALSE(read_whole(folder.path() / "none"));
}

TEST_CASE("a new file has the permissions that any other would have") {
  const TemporaryFolder folder;
  for (const mode_t mask : {mode_t{0}, mode_t{077}, mode_t{022}}) {
    const mode_t earlier = ::umask(mask);
    write_atomically(folder.path() / "file", "x");
    ::umask(earlier);
    struct stat status {};
    REQUIRE(::stat((folder.path() / "file").c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == (0666 & ~mask));
  }
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("a path with a zero byte in it is refused") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / std::string("a\0b", 3);
  CHECK_THROWS_AS(write_atomically(path, "x"), OutputError);
  CHECK_THROWS_AS(make_folder(path), OutputError);
  CHECK(fs::is_empty(folder.path()));
}

TEST_CASE("a folder is made, or the error says why not") {
  const TemporaryFolder folder;
  make_folder(folder.path() / "a" / "b");
  CHECK(fs::is_directory(folder.path() / "a" / "b"));
  write_file(folder.path() / "file", "");
  CHECK_THROWS_AS(make_folder(folder.path() / "file"), OutputError);
  CHECK_THROWS_AS(make_folder(folder.path() / "file" / "x"), OutputError);
}

TEST_CASE("what changed since it was hashed is found") {
  const TemporaryFolder folder;
  write_file(folder.path() / "file", "content");
  const std::map<std::string, std::string> hashes = {{"file", sha256_of_text("content")}};
  CHECK(changed_files(folder.path(), hashes).size() == 1);
  remember_files(folder.path(), hashes, stamp_files(folder.path(), {"file"}));
  CHECK(changed_files(folder.path(), hashes).empty());
  CHECK(changed_files(folder.path(), {{"file", "another"}}).size() == 1);
  write_file(folder.path() / "file", "CONTENT");
  CHECK(changed_files(folder.path(), hashes).size() == 1);
  fs::remove(folder.path() / "file");
  CHECK(changed_files(folder.path(), hashes).size() == 1);
}

TEST_CASE("a cached file without its hash is dropped") {
  const auto folder = cache_folder("test", "one");
  REQUIRE(folder);
  write_file(*folder / "a.blob", "a");
  seal_files(*folder, ".blob");
  drop_unsealed(*folder, ".blob");
  CHECK(fs::exists(*folder / "a.blob"));
  write_file(*folder / "a.blob", "b");
  write_file(*folder / "c.blob", "c");
  drop_unsealed(*folder, ".blob");
  CHECK_FALSE(fs::exists(*folder / "a.blob"));
  CHECK_FALSE(fs::exists(*folder / "c.blob"));
}

TEST_CASE("a cached file that was not written since is not read") {
  const auto folder = cache_folder("test", "two");
  REQUIRE(folder);
  const fs::path blob = *folder / "a.blob", seal = *folder / "a.blob.sha256";
  write_file(blob, "a");
  seal_files(*folder, ".blob");
  const std::string before = *read_whole(seal), hash = sha256_of_text("a");
  CHECK(before.substr(0, 65) == hash + " ");
  write_file(seal, std::string(64, '0') + before.substr(64));  // reading would refute it
  drop_unsealed(*folder, ".blob");
  CHECK(fs::exists(blob));
  for (const std::string stamp : {"", " 1 2 3 4 5"}) {  // sealed before there were stamps; copied
    write_file(seal, hash + stamp);
    drop_unsealed(*folder, ".blob");
    CHECK(fs::exists(blob));
    CHECK(read_whole(seal) == before);
  }
  write_file(seal, "");
  drop_unsealed(*folder, ".blob");
  CHECK_FALSE(fs::exists(blob));
  CHECK_FALSE(fs::exists(seal));
}
