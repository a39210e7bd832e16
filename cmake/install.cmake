include(CMakePackageConfigHelpers)
set(ISTHMUS_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/isthmus)

install(TARGETS isthmus EXPORT isthmusTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/cpp/include/isthmus DESTINATION include)
if(TARGET isthmus-run)
  install(TARGETS isthmus-run RUNTIME DESTINATION bin)
endif()
if(TARGET _core)
  install(TARGETS _core LIBRARY DESTINATION .)
endif()

install(EXPORT isthmusTargets NAMESPACE isthmus:: DESTINATION ${ISTHMUS_CMAKE_DIR})
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/isthmusConfig.cmake.in ${PROJECT_BINARY_DIR}/isthmusConfig.cmake
  INSTALL_DESTINATION ${ISTHMUS_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/isthmusConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/isthmusConfig.cmake
              ${PROJECT_BINARY_DIR}/isthmusConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/cmake/FindLibTorch.cmake
        DESTINATION ${ISTHMUS_CMAKE_DIR})
