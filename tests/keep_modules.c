/* tests/keep_modules.c: preloaded when the tests run under AddressSanitizer.
 *
 * Open MPI unloads its plugins in MPI_Finalize. What a plugin left allocated can then no longer be told from
 * a leak of ours, because the report has no name for unloaded code. So plugins stay loaded, and
 * tests/lsan.supp names them. */
int dlclose(void *handle);

int dlclose(void *handle) {
    (void)handle;
    return 0;
}
