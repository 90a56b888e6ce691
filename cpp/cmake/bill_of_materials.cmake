# A CycloneDX list (JSON, version 1.6) of what an install tree holds: packages with their versions, licences
# and files. It holds no time and no random number, so that equal trees have equal lists.

# Licences of the packages that the tree is known to need, by the beginnings of their names.
set(bill_licences
  "openvino=Apache-2.0" "onetbb=Apache-2.0" "nlohmann-json=MIT" "libpng=libpng-2.0" "zlib=Zlib"
  "libutf8proc=MIT AND Unicode-DFS-2015" "libssl=Apache-2.0"
  "libstdc\\+\\+=GPL-3.0-or-later WITH GCC-exception-3.1"
  "libgcc=GPL-3.0-or-later WITH GCC-exception-3.1")

# Add a package, with a version and a package URL where they are known, and the files of it that lie in the tree.
function(add_to_bill components name version purl licence)
  string(JSON component SET "{}" type "\"library\"")
  string(JSON component SET "${component}" name "\"${name}\"")
  if(version)
    string(JSON component SET "${component}" version "\"${version}\"")
  endif()
  if(purl)
    string(JSON component SET "${component}" purl "\"${purl}\"")
  endif()
  if(licence)
    string(JSON component SET "${component}" licenses "[{\"expression\": \"${licence}\"}]")
  endif()
  set(files "[]")
  foreach(file IN LISTS ARGN)
    get_filename_component(short ${file} NAME)
    file(SHA256 ${file} digest)
    string(JSON count LENGTH "${files}")
    string(JSON files SET "${files}" ${count} "{\"type\": \"file\", \"name\": \"${short}\",
      \"hashes\": [{\"alg\": \"SHA-256\", \"content\": \"${digest}\"}]}")
  endforeach()
  if(ARGN)
    string(JSON component SET "${component}" components "${files}")
  endif()
  string(JSON count LENGTH "${${components}}")
  string(JSON extended SET "${${components}}" ${count} "${component}")
  set(${components} "${extended}" PARENT_SCOPE)
endfunction()

# The licence of a package by its name; empty where it is not in the list above.
function(find_bill_licence result package)
  set(${result} "" PARENT_SCOPE)
  foreach(entry IN LISTS bill_licences)
    string(REGEX MATCH "^([^=]+)=(.+)$" matched "${entry}")
    set(licence "${CMAKE_MATCH_2}")
    if(package MATCHES "^${CMAKE_MATCH_1}")
      set(${result} "${licence}" PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

function(write_bill path version components)
  file(WRITE ${path} "{
  \"$schema\": \"http://cyclonedx.org/schema/bom-1.6.schema.json\",
  \"bomFormat\": \"CycloneDX\",
  \"specVersion\": \"1.6\",
  \"version\": 1,
  \"metadata\": {
    \"component\": {
      \"type\": \"library\", \"name\": \"ldm-engine\", \"version\": \"${version}\",
      \"licenses\": [{\"expression\": \"Apache-2.0\"}]
    }
  },
  \"components\": ${components}
}
")
endfunction()
