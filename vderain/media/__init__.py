"""Everything that knows files of video and pictures: frames come out of them and go into them."""
