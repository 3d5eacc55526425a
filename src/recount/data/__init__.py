"""From a fetched data set to training pictures: samples, preparation, the index, pictures, windows."""
