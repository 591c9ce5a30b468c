"""One file a layout: folders, zip files, arrays, LMDBs, IDX, fetched sets, made-up ones."""
