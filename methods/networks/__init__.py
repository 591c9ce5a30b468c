"""Networks, sized by their settings: U-Net, generator, classifier."""
