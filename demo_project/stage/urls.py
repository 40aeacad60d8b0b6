from django.urls import include, path

from stage import views

urlpatterns = [
    path("live", views.live),  # in place of the shop's
    path("stage/<slug:group>/<slug:action>", views.act, name="act"),
    path("", include("orders.urls")),
]
